"""Optimizers: what they keep for each parameter, and how long a step of one takes.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Liu et al. 2025,
arXiv:2502.16982, section 2) updates the matrices of blocks with one moment, made orthogonal by
products of matrices; ends of the model are updated by AdamW. Each matrix is orthogonalised whole on
one of the ranks that share its optimizer state (Megatron-LM's layer-wise optimizer), and by
tensor-parallel parts (its `--muon-tp-mode blockwise`). What that sends beside ZeRO-1's exchanges is
not counted, nor are norms and biases told from matrices.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from parplan.hardware.kernels.kernel import Gemm, Kernel, MemoryBound
from parplan.sim.cost_model.parameter_exchanges import gradient_bytes
from parplan.sim.cost_model.stages import StageParameters
from parplan.sim.models.model import Model
from parplan.sim.models.parts import LayerKind, has_experts
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

FP32, BF16, INT8 = 4.0, 2.0, 1.0 + 4.0 / 256.0
"""Bytes of one moment. INT8: blocks of 256 values with a scale each (Dettmers et al. 2021,
arXiv:2110.02861, section 2)."""

ITERATIONS = 5
"""Newton-Schulz iterations of Muon's orthogonalisation, in both sources."""


class MomentBytes(NamedTuple):
    """Bytes of moments for each parameter."""

    matrices: float
    """Of the matrices of blocks."""
    others: float


MOMENTS = {
    "adamw": MomentBytes(2 * FP32, 2 * FP32),
    "adamw-bf16": MomentBytes(2 * BF16, 2 * BF16),
    "adamw-8bit": MomentBytes(2 * INT8, 2 * INT8),
    "muon": MomentBytes(FP32, 2 * FP32),
    "sgd": MomentBytes(0.0, 0.0),
}
"""By the name of the optimizer. adamw-bf16: Megatron-LM's --exp-avg-dtype and --exp-avg-sq-dtype.
sgd: without momentum."""


def master_bytes(workload: Workload) -> float:
    """Of the fp32 copy of a parameter that is computed with in 16 bits."""
    return 4.0 if workload.precision != "fp32" and workload.software.master_parameters else 0.0


def state_bytes(
    workload: Workload, plan: Plan, parameters: StageParameters, is_sharded: bool
) -> float:
    """Bytes of moments and master parameters of the parameters that a rank holds."""
    of_matrices, of_others = MOMENTS[workload.optimizer]
    trained = parameters.trained_share
    total = (of_others + master_bytes(workload)) * trained * parameters.held(plan, is_sharded)
    if of_matrices == of_others:
        return total
    return total + (of_matrices - of_others) * trained * parameters.held_matrices(plan, is_sharded)


def moved_bytes(
    workload: Workload, plan: Plan, parameters: StageParameters, is_sharded: bool
) -> float:
    """Bytes that a step reads and writes: moments, parameters, and the gradients that it reads."""
    of_matrices, of_others = MOMENTS[workload.optimizer]
    value = workload.bytes_per_value
    master = master_bytes(workload)
    values = 2 * master + value if master else 2 * value
    held = parameters.trained_share * parameters.held(plan, is_sharded)
    total = (2 * of_others + values + gradient_bytes(workload, plan)) * held
    if of_matrices == of_others:
        return total
    matrices = parameters.trained_share * parameters.held_matrices(plan, is_sharded)
    return total + 2 * (of_matrices - of_others) * matrices


def step_s(
    workload: Workload,
    plan: Plan,
    parameters: StageParameters,
    kernel_s: Callable[[Kernel], float],
    *,
    is_sharded: bool,
) -> float:
    """Seconds of a step on the device, over the parameters that a rank holds.

    kernel_s: the time of a kernel.
    """
    moved = moved_bytes(workload, plan, parameters, is_sharded)
    seconds = kernel_s(MemoryBound(num_bytes=moved))
    held = parameters.held_matrices(plan, is_sharded) if workload.optimizer == "muon" else 0.0
    if not held:
        return seconds
    whole_s, count, largest_s = 0.0, 0.0, 0.0
    for rows, columns, number in _matrices_of(workload, plan, parameters):
        each = sum(map(kernel_s, orthogonalisation(rows, columns, _dtype(workload))))
        whole_s += ITERATIONS * each * number
        count += rows * columns * number
        largest_s = max(largest_s, ITERATIONS * each)
    # Some rank has one whole matrix at least.
    return seconds + max(largest_s, whole_s * parameters.trained_share * held / count)


def orthogonalisation(rows: int, columns: int, dtype: str) -> tuple[Gemm, ...]:
    """The products of one iteration on a matrix X: A = X X^T, A A, and (b A + c A A) X.

    X has at most as many rows as columns, or is transposed.
    """
    m, n = sorted((rows, columns))
    return (
        Gemm(m=m, n=m, k=n, dtype=dtype),
        Gemm(m=m, n=m, k=m, dtype=dtype),
        Gemm(m=m, n=n, k=m, dtype=dtype),
    )


def _dtype(workload: Workload) -> str:
    """What matrices are made orthogonal in: 16 bits where these are computed with."""
    if workload.precision == "fp32":
        return workload.product_dtype
    return "fp16" if workload.precision == "fp16" else "bf16"


def _matrices_of(
    workload: Workload, plan: Plan, parameters: StageParameters
) -> Iterator[tuple[int, int, float]]:
    """(rows, columns, how many) of the matrices of a stage's blocks on one rank."""
    split = plan.tensor_parallel
    for kind, blocks in parameters.blocks:
        own = block_matrices(
            workload.model, kind, split, plan.expert_parallel, plan.expert_tensor_parallel or split
        )
        for rows, columns, number in own:
            yield rows, columns, number * blocks


@lru_cache(maxsize=1024)
def block_matrices(
    model: Model, kind: LayerKind, tensor: int = 1, experts: int = 1, expert_tensor: int = 1
) -> tuple[tuple[int, int, float], ...]:
    """(rows, columns, how many) of the matrices of a block, on one rank of such degrees.

    Where a degree does not divide a size, the larger part.
    """
    h = model.hidden_size
    found = [(h, -(-size // tensor), 1.0) for size in _attention_sizes(model)]
    if model.mla is not None:
        x = model.mla
        heads = -(-model.num_heads // tensor)
        found = [(h, x.kv_rank + x.rope_size, 1.0), (heads * x.value_size, h, 1.0)]
        found.append((x.kv_rank, heads * (x.nope_size + x.value_size), 1.0))
        queries = (x.query_rank, heads * model.head_size, 1.0)
        found += [(h, x.query_rank, 1.0), queries] if x.query_rank else [(h, *queries[1:])]
    matrices = model.num_up_matrices + 1.0
    moe = model.moe
    if moe is None or not has_experts(kind):
        return (*found, (h, -(-model.ffn_size // tensor), matrices))
    found += [(h, moe.num_experts, 1.0)]
    found += [(h, -(-moe.ffn_size // expert_tensor), matrices * moe.num_experts / experts)]
    if moe.shared_experts:
        found += [(h, -(-moe.shared_experts * moe.ffn_size // tensor), matrices)]
    return tuple(found)


def _attention_sizes(model: Model) -> tuple[int, int, int, int]:
    """Features of query, key, value and output projections, beside the hidden size."""
    return model.query_size, model.kv_size, model.kv_size, model.query_size
