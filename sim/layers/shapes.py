"""Sizes of one micro-batch on one rank, and the kernels that most operations are made of."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parplan.hardware.kernels.kernel import (
    BYTES,
    Direction,
    Family,
    Gemm,
    Kernel,
    Layout,
    MemoryBound,
    Provider,
)
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.software.habits import Software
from parplan.sim.workload import NARROW, AttentionKind, Workload

FORWARD: Direction = "forward"
BACKWARD: Direction = "backward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Sizes on which a layer's kernels depend."""

    model: Model
    batch: int
    seq_len: int
    split: int
    """Tensor-parallel ranks."""
    sequence_parallel: bool
    context: int
    """Context-parallel ranks, each with an equal part of every sequence."""
    experts_over: int
    """Expert-parallel ranks."""
    expert_split: int
    """Tensor-parallel ranks within an expert."""
    expert_load: float
    """Tokens of the fullest rank over those of the mean one."""
    dtype: str
    """Of the linear layers' products."""
    attention_dtype: str
    value_bytes: int
    attention: AttentionKind
    dropout: bool
    accumulate: bool
    """Whether weight gradients are added to a buffer: over micro-batches, or in fp32."""
    frozen: bool
    """Whether weights get no gradients (low-rank adapters)."""
    gradient_dtype: str
    """What they are written in."""
    fused_norms: bool
    fused_elementwise: bool
    fused_loss: bool
    software: Software

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch on one rank, inside of the tensor-parallel regions."""
        return self.batch * self.seq_len // self.context

    @property
    def is_wide(self) -> bool:
        """Whether values have 32 bits."""
        return self.value_bytes == 4

    @property
    def own_tokens(self) -> float:
        """Tokens outside of them: sequence parallelism splits these too."""
        return self.tokens / (self.split if self.sequence_parallel else 1)

    @property
    def hidden_bytes(self) -> float:
        """One value of every feature of every token inside of the tensor-parallel regions."""
        return float(self.value_bytes * self.tokens * self.model.hidden_size)

    @property
    def own_hidden_bytes(self) -> float:
        """The same outside."""
        return self.value_bytes * self.own_tokens * self.model.hidden_size


def shapes_of(workload: Workload, plan: Plan) -> Shapes:
    """The sizes that `plan` gives one micro-batch of `workload`."""
    wide = "bf16" if workload.precision in NARROW else workload.precision
    return Shapes(
        model=workload.model,
        batch=plan.batch_per_device,
        seq_len=workload.seq_len,
        split=plan.tensor_parallel,
        sequence_parallel=plan.sequence_parallel,
        context=plan.context_parallel,
        experts_over=plan.expert_parallel,
        expert_split=plan.expert_tensor_parallel or plan.tensor_parallel,
        expert_load=workload.expert_load,
        dtype=workload.product_dtype,
        attention_dtype="tf32" if workload.tf32 else wide,
        value_bytes=workload.bytes_per_value,
        attention=workload.attention,
        dropout=workload.dropout,
        accumulate=plan.num_micro_batches > 1 or plan.gradient_dtype == "fp32",
        frozen=workload.lora_rank > 0,
        gradient_dtype="fp32" if plan.gradient_dtype == "fp32" else wide,
        fused_norms=workload.fused_norms,
        fused_elementwise=workload.fused_elementwise,
        fused_loss=workload.fused_loss,
        software=workload.software,
    )


def fused_provider(x: Shapes) -> Provider:
    """Where a normalisation, an activation function or rotary positions in one kernel come from."""
    return "torch" if x.software.kernels == "torch" else "triton"


def linear(
    x: Shapes,
    name: str,
    tokens: int,
    inputs: int,
    outputs: int,
    *,
    groups: int = 1,
    bias: bool = False,
    keeps_input: bool = True,
    casts_input: bool = False,
) -> Op:
    """A product with a weight matrix of this rank (of `groups` experts, `tokens` each).

    In 8 or 4 bits the gradient is cast, and the input where no kernel before it writes 8 bits
    (`casts_input`); normalisations and activation functions do, as in Transformer Engine.
    """
    m = max(1, tokens)
    weights = groups * inputs * outputs
    forward: list[Kernel] = []
    backward: list[Kernel] = []
    if x.dtype in NARROW:
        # Read in 16 bits and written in 8 or 4, straight and transposed.
        each = groups * m * (x.value_bytes + 2 * BYTES[x.dtype])
        forward += [MemoryBound(num_bytes=each * inputs)] if casts_input else []
        backward.append(MemoryBound(num_bytes=each * outputs))

    def product(m: int, n: int, k: int, layout: Layout, **fields: Any) -> Gemm:
        if x.dtype in NARROW:
            fields.setdefault("output_dtype", x.attention_dtype)
        fields |= {"batch": groups, "grouped": groups > 1}
        return Gemm(m=m, n=n, k=k, dtype=x.dtype, transposed=layout, **fields)

    fused = x.software.fused_gradient_accumulation
    written: dict[str, Any] = {"accumulate": x.accumulate, "output_dtype": x.gradient_dtype}
    if not fused:
        written = {}
    gradients: list[Kernel] = [product(outputs, inputs, m, "NT", **written)]
    if not fused:
        gradients += accumulated(x, weights)
    if bias:
        gradients.append(MemoryBound(num_bytes=float(x.value_bytes * groups * m * outputs)))
    return Op(
        name=name,
        forward=(*forward, product(m, outputs, inputs, "TN")),
        input_gradient=(*backward, product(m, inputs, outputs, "NN")),
        weight_gradient=() if x.frozen else tuple(gradients),
        input_bytes=x.value_bytes * groups * m * inputs if keeps_input and not x.frozen else 0.0,
        parameters=weights + (groups * outputs if bias else 0),
    )


def accumulated(x: Shapes, parameters: float) -> tuple[Kernel, ...]:
    """Kernels that add written gradients to those of earlier micro-batches, or ready them."""
    summed = 4 if x.gradient_dtype == "fp32" else x.value_bytes
    if x.software.flat_gradients:
        passes = [2 * x.value_bytes, 2 * summed]
        passes += [x.value_bytes + summed] if summed > x.value_bytes else []
        return tuple(MemoryBound(num_bytes=each * parameters) for each in passes)
    if not x.accumulate:
        return ()
    return (MemoryBound(num_bytes=(x.value_bytes + 2 * summed) * parameters),)


def elementwise(
    name: str,
    *,
    forward_bytes: float,
    backward_bytes: float,
    input_bytes: float = 0.0,
    inner_bytes: float = 0.0,
    parameters: float = 0.0,
    family: Family = "copy",
    provider: Provider = "copy",
    wide: bool = False,
) -> Op:
    """A kernel forward and one backward, both bound by the memory."""
    forward, backward = (
        _moves(num_bytes, family, provider, direction, wide)
        for num_bytes, direction in ((forward_bytes, FORWARD), (backward_bytes, BACKWARD))
    )
    return Op(
        name=name,
        forward=(forward,),
        input_gradient=(backward,) if backward_bytes else (),
        input_bytes=input_bytes,
        inner_bytes=inner_bytes,
        parameters=parameters,
    )


def chain(
    name: str,
    values: float,
    forward: Sequence[float],
    backward: Sequence[float],
    input_bytes: float = 0.0,
    family: Family = "copy",
) -> Op:
    """Kernels that each read and write so many bytes of each of `values` values."""
    provider: Provider = "copy" if family == "copy" else "eager"
    return Op(
        name=name,
        forward=tuple(_moves(values * each, family, provider, FORWARD) for each in forward),
        input_gradient=tuple(
            _moves(values * each, family, provider, BACKWARD) for each in backward
        ),
        input_bytes=input_bytes,
    )


def _moves(
    num_bytes: float,
    family: Family,
    provider: Provider,
    direction: Direction,
    wide: bool = False,
) -> MemoryBound:
    return MemoryBound(
        num_bytes=num_bytes, family=family, provider=provider, direction=direction, wide=wide
    )


def norm(x: Shapes, name: str) -> Op:
    """A normalisation: reads and writes; backward reads input and gradient, and writes.

    Unfused it is a chain of kernels in fp32: cast, square, mean, product, cast, product with the
    weights. Their backward takes twice their traffic, and reads what the products read.
    """
    size = x.own_hidden_bytes
    if x.fused_norms:
        return elementwise(
            name,
            forward_bytes=2 * size,
            backward_bytes=3 * size,
            input_bytes=size,
            parameters=x.model.norm_parameters,
            family="norm",
            provider=fused_provider(x),
            wide=x.is_wide,
        )
    values = x.own_tokens * x.model.hidden_size
    narrow = x.value_bytes
    # Bytes of a value that each kernel reads and writes.
    passes = (narrow + 4, 4 + 4, 4, 4 + 4, 4 + narrow, 2 * narrow)
    op = chain(name, values, passes, [2 * each for each in passes], narrow * values, family="norm")
    # Kept are the input as it was cast to fp32 and, in place of the input, what the weights are
    # multiplied with.
    return dataclasses.replace(op, inner_bytes=4 * values, parameters=x.model.norm_parameters)


def residual(x: Shapes, name: str) -> Op:
    """The sum with the residual stream, with the dropout before it."""
    size = x.own_hidden_bytes
    mask = x.own_tokens * x.model.hidden_size if x.dropout else 0.0
    return elementwise(
        name,
        forward_bytes=3 * size + mask,
        # Of a sum alone the gradient goes through as it is, and is added where paths join.
        backward_bytes=(3 if x.dropout else 2) * size + mask,
        inner_bytes=mask,
    )


def enters_region(x: Shapes, op: Op) -> Op:
    """`op` as the first of a tensor-parallel region, whose input is replicated or split.

    Nothing forward and an all-reduce backward (Shoeybi et al. 2019, arXiv:1909.08053, section 3),
    with sequence parallelism an all-gather and a reduce-scatter (Korthikanti et al. 2022,
    arXiv:2205.05198, section 4.2.2). What comes backward runs beside the weight gradient, for which
    the input is gathered once more.
    """
    if x.split == 1:
        return op
    overlaps = x.software.overlap_tensor_gradients
    if not x.sequence_parallel:
        total = Exchange(
            group="tensor", op="all_reduce", num_bytes=x.hidden_bytes, overlaps=overlaps
        )
        return dataclasses.replace(op, backward_exchanges=(total,))
    gather = Exchange(group="tensor", op="all_gather", num_bytes=x.hidden_bytes)
    again = dataclasses.replace(gather, overlaps=overlaps)
    scatter = dataclasses.replace(again, op="reduce_scatter")
    return dataclasses.replace(
        op,
        forward_exchanges=(gather,),
        backward_exchanges=(again, scatter),
        # The gathered input is not kept, each rank keeps its part.
        input_bytes=op.input_bytes / x.split,
    )


def leaves_region(x: Shapes, op: Op) -> Op:
    """`op` as the last of a tensor-parallel region: its partial sums are added up."""
    if x.split == 1:
        return op
    if not x.sequence_parallel:
        total = Exchange(group="tensor", op="all_reduce", num_bytes=x.hidden_bytes)
        return dataclasses.replace(op, forward_exchanges=(total,))
    scatter = Exchange(group="tensor", op="reduce_scatter", num_bytes=x.hidden_bytes)
    gather = Exchange(group="tensor", op="all_gather", num_bytes=x.hidden_bytes)
    return dataclasses.replace(op, forward_exchanges=(scatter,), backward_exchanges=(gather,))
