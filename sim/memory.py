"""Bytes that one rank of each stage needs at its peak.

Parameters, gradients and optimizer state: Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054,
section 3.1): 2 + 2 + 12 bytes per parameter with Adam in mixed precision. Activations: what the
backward of each operation reads, as counted by Korthikanti et al. 2022 (arXiv:2205.05198,
section 4.1), without dropout, for the plain and the gated MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parplan.sim.cost_model import stage_parameters
from parplan.sim.instructions import Schedule
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Peak bytes of one rank by what they hold."""

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    activation_bytes: float

    @property
    def total_bytes(self) -> float:
        """All of it."""
        held = self.parameter_bytes + self.gradient_bytes
        return held + self.optimizer_bytes + self.activation_bytes

    def __str__(self) -> str:
        return (
            f"parameters {self.parameter_bytes / GB:.1f}, "
            f"gradients {self.gradient_bytes / GB:.1f}, "
            f"optimizer {self.optimizer_bytes / GB:.1f}, "
            f"activations {self.activation_bytes / GB:.1f} GB"
        )


def stage_memory(workload: Workload, plan: Plan, schedule: Schedule) -> tuple[StageMemory, ...]:
    """The peak memory of one rank of every stage, with as many micro-batches in flight as
    `schedule` keeps."""
    return memory_in_flight(workload, plan, micro_batches_in_flight(schedule, plan.total_stages))


def memory_in_flight(
    workload: Workload, plan: Plan, in_flight: Sequence[int]
) -> tuple[StageMemory, ...]:
    """The peak memory of one rank of every stage that holds so many micro-batches at most."""
    layers = plan.layers_of_stages(workload.model.num_layers)
    return tuple(
        _one_stage(workload, plan, stage, layers[stage], parameters, in_flight[stage])
        for stage, parameters in enumerate(stage_parameters(workload, plan))
    )


def _one_stage(
    workload: Workload, plan: Plan, stage: int, num_blocks: int, parameters: float, in_flight: int
) -> StageMemory:
    value, dp, model = workload.bytes_per_value, plan.data_parallel, workload.model
    # A sharded stage holds one whole layer more: the one that is being computed, gathered.
    whole = min(parameters, max(model.block_parameters, parameters / max(1, num_blocks)))
    working = parameters / dp + whole if plan.distribute_low_prec_param else parameters
    gradients = parameters / dp + whole if plan.distribute_gradient else parameters
    moments = 8 if workload.optimizer == "adamw" else 0
    master = 0 if workload.precision == "fp32" else 4
    is_last = stage == plan.total_stages - 1
    activations = in_flight * num_blocks * saved_block_bytes(workload, plan)
    if plan.recomputation != "none":
        activations += block_bytes(workload, plan) - saved_block_bytes(workload, plan)
    if is_last:
        activations += in_flight * head_bytes(workload, plan)
    return StageMemory(
        parameter_bytes=value * working,
        gradient_bytes=value * gradients,
        optimizer_bytes=(moments + master) * parameters / (dp if plan.distribute_param else 1),
        activation_bytes=activations,
    )


def micro_batches_in_flight(schedule: Schedule, num_stages: int) -> list[int]:
    """For each stage, how many micro-batches are at most between forward and end of backward."""
    held, peak = [0] * num_stages, [0] * num_stages
    for actions in schedule:
        for stage, op, _ in actions:
            if op == "F":
                held[stage] += 1
                peak[stage] = max(peak[stage], held[stage])
            elif op in "BW":
                held[stage] -= 1
    return peak


def block_bytes(workload: Workload, plan: Plan) -> float:
    """What one block keeps for the backward of one micro-batch without recomputation."""
    m, split = workload.model, plan.tensor_parallel
    own = split if plan.sequence_parallel else 1
    # Inputs of both normalisations, of the query-key-value product and of the MLP.
    outside = 4 * m.hidden_size / own
    # Query, keys, values, output of the attention.
    attention = (2 * m.hidden_size + 2 * m.kv_size) / split
    # Input(s) and output of the activation function.
    mlp = (3 if m.mlp == "gated" else 2) * m.ffn_size / split
    values = outside + attention + mlp
    return _tokens(workload, plan) * workload.bytes_per_value * values + _score_bytes(
        workload, plan
    )


def saved_block_bytes(workload: Workload, plan: Plan) -> float:
    """What one block keeps from forward to backward under the plan's recomputation."""
    if plan.recomputation == "full":
        own = plan.tensor_parallel if plan.sequence_parallel else 1
        tokens = _tokens(workload, plan)
        return tokens * workload.bytes_per_value * workload.model.hidden_size / own
    whole = block_bytes(workload, plan)
    return whole - _score_bytes(workload, plan) if plan.recomputation == "selective" else whole


def _score_bytes(workload: Workload, plan: Plan) -> float:
    """The softmax of the attention scores; flash attention keeps none."""
    if workload.attention == "flash":
        return 0.0
    heads = workload.model.num_heads / plan.tensor_parallel
    return _tokens(workload, plan) * workload.seq_len * heads * workload.bytes_per_value


def head_bytes(workload: Workload, plan: Plan) -> float:
    """Input of the projection, its logits, and the fp32 softmax that the loss keeps."""
    m = workload.model
    logits = m.vocab_size / plan.tensor_parallel * (workload.bytes_per_value + 4)
    return _tokens(workload, plan) * (workload.bytes_per_value * 2 * m.hidden_size + logits)


def _tokens(workload: Workload, plan: Plan) -> int:
    return plan.batch_per_device * workload.seq_len
