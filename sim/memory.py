"""Bytes that one rank needs at its peak.

Parameters, gradients and optimizer state: Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054,
section 3.1): 2 + 2 + 12 bytes per parameter with Adam in mixed precision. Activations: what the
backward of each operation reads, as counted by Korthikanti et al. 2022 (arXiv:2205.05198,
section 4.1), without dropout, for the plain and the gated MLP.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from parplan.sim.cost_model import stage_parameters
from parplan.sim.instructions import Action, RankActions, Schedule
from parplan.sim.peaks import Moments
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNeeds:
    """Bytes of one stage on one of its ranks."""

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    gathered_parameter_bytes: float
    """One layer whole while it is computed, where the parameters are sharded."""
    gathered_gradient_bytes: float
    """The same for its gradients."""
    saved_bytes: float
    """Kept by one micro-batch from its forward to the end of its backward."""
    recomputed_bytes: float
    """Beside them for one block at a time, while its activations are there again."""
    recomputed_stage_bytes: float
    """The same for all blocks: a split backward (I, later W) keeps them in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes of one rank at its peak, by what they hold."""

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    activation_bytes: float

    @property
    def state_bytes(self) -> float:
        """What is held from the start of the step to its end."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return self.state_bytes + self.activation_bytes

    def __str__(self) -> str:
        return (
            f"parameters {self.parameter_bytes / GB:.1f}, "
            f"gradients {self.gradient_bytes / GB:.1f}, "
            f"optimizer {self.optimizer_bytes / GB:.1f}, "
            f"activations {self.activation_bytes / GB:.1f} GB"
        )


def rank_memory(needs: Sequence[StageNeeds], moments: Sequence[Moments]) -> tuple[RankMemory, ...]:
    """The peak memory of every pipeline rank whose lists have these `moments`.

    `needs`: those of all stages. Over time: `parplan.sim.memory_over_time`.
    """
    return tuple(_peak(needs, own) for own in moments)


def _peak(needs: Sequence[StageNeeds], moments: Moments) -> RankMemory:
    own = [needs[stage] for stage in moments.stages]
    weights = [n.saved_bytes for n in own]
    weights += [n.recomputed_stage_bytes for n in own]
    weights += [n.recomputed_bytes for n in own]
    # One layer at a time is whole, of whichever stage.
    parameters = max((n.gathered_parameter_bytes for n in own), default=0.0)
    gradients = max((n.gathered_gradient_bytes for n in own), default=0.0)
    return RankMemory(
        parameter_bytes=parameters + sum(n.parameter_bytes for n in own),
        gradient_bytes=gradients + sum(n.gradient_bytes for n in own),
        optimizer_bytes=sum(n.optimizer_bytes for n in own),
        activation_bytes=float((moments.counts @ np.array(weights)).max(initial=0.0)),
    )


def activation_bytes(
    actions: RankActions, needs: Sequence[StageNeeds]
) -> Iterator[tuple[Action, float, float]]:
    """For each action: the activations while it runs, and those that are kept after it, in bytes.

    A split backward frees nothing before its W: an upper bound, as W needs the inputs of the
    products and the gradients of their outputs.
    """
    kept = 0.0
    for action in actions:
        stage, op, _ = action
        need = needs[stage]
        extra = need.recomputed_stage_bytes
        if op == "F":
            kept += need.saved_bytes
            yield action, kept, kept
        elif op == "B":
            while_running = kept + need.recomputed_bytes
            kept -= need.saved_bytes
            yield action, while_running, kept
        elif op == "I":
            kept += extra
            yield action, kept, kept
        else:
            while_running = kept
            kept -= need.saved_bytes + extra
            yield action, while_running, kept


def stage_needs(workload: Workload, plan: Plan) -> tuple[StageNeeds, ...]:
    """What every stage needs under `plan`."""
    layers = plan.layers_of_stages(workload.model.num_layers)
    return tuple(
        _one_stage(workload, plan, stage, layers[stage], parameters)
        for stage, parameters in enumerate(stage_parameters(workload, plan))
    )


def _one_stage(
    workload: Workload, plan: Plan, stage: int, num_blocks: int, parameters: float
) -> StageNeeds:
    value, dp, model = workload.bytes_per_value, plan.data_parallel, workload.model
    whole = min(parameters, max(model.block_parameters, parameters / max(1, num_blocks)))
    moments = 8 if workload.optimizer == "adamw" else 0
    master = 0 if workload.precision == "fp32" else 4
    saved = saved_block_bytes(workload, plan)
    recomputed = 0.0
    if plan.recomputation != "none" and num_blocks:
        recomputed = block_bytes(workload, plan) - saved
    head = head_bytes(workload, plan) if stage == plan.total_stages - 1 else 0.0
    return StageNeeds(
        parameter_bytes=value * parameters / (dp if plan.distribute_low_prec_param else 1),
        gradient_bytes=value * parameters / (dp if plan.distribute_gradient else 1),
        optimizer_bytes=(moments + master) * parameters / (dp if plan.distribute_param else 1),
        gathered_parameter_bytes=value * whole * plan.distribute_low_prec_param,
        gathered_gradient_bytes=value * whole * plan.distribute_gradient,
        saved_bytes=num_blocks * saved + head,
        recomputed_bytes=recomputed,
        recomputed_stage_bytes=num_blocks * recomputed,
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


def message_bytes(workload: Workload, plan: Plan) -> float:
    """Activations of one micro-batch between two stages, of one tensor-parallel rank."""
    values = _tokens(workload, plan) * workload.model.hidden_size / plan.tensor_parallel
    return workload.bytes_per_value * values


def _tokens(workload: Workload, plan: Plan) -> int:
    return plan.batch_per_device * workload.seq_len
