"""Peak memory of one rank in bytes.

Parameters, gradients and optimizer state: Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054,
section 3.1): 2 + 2 + 12 bytes per parameter with Adam in mixed precision. Activations: what the
backward of each operation reads (`parplan.sim.layers.ops`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parplan.sim.cost_model.offload import buffer_bytes, offloaded_bytes
from parplan.sim.cost_model.optimizers import MOMENTS, master_bytes, state_bytes
from parplan.sim.cost_model.parameter_exchanges import gradient_bytes
from parplan.sim.cost_model.stage_costs import (
    ModelOps,
    message_bytes,
    model_ops,
    recomputes_head,
    reduces_once,
)
from parplan.sim.cost_model.stages import (
    StageLayers,
    StageParameters,
    runs_of,
    stage_parameters,
    stages_of,
)
from parplan.sim.layers.blocks import Ops, recomputed_ops
from parplan.sim.layers.ops import all_bytes, kept_bytes
from parplan.sim.layers.shapes import shapes_of
from parplan.sim.memory.held_bytes import HeldBytes, held_over
from parplan.sim.memory.moments import Moments
from parplan.sim.models.parts import LayerKind
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import Action, RankActions
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload

GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNeeds:
    """Bytes of one stage on one of its ranks."""

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    gathered_parameter_bytes: float
    """Layers whole while they are computed or prefetched, where the parameters are sharded; and
    what software reserves on a rank, whichever stages it has."""
    gathered_gradient_bytes: float
    """The same for its gradients."""
    saved_bytes: float
    """Kept by one micro-batch from its forward to the end of its backward, not in the host."""
    recomputed_bytes: float
    """Beside them for one layer at a time: a block's recomputed activations, while they are there
    again, or what the loss works with; and what is back from the host."""
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
        """Bytes held from the start of the step to its end."""
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

    `needs`: those of all stages. Over time: `parplan.sim.memory.over_time`.
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
        activation_bytes=float(activation_peak(moments, [np.float64(w) for w in weights])),
    )


def activation_peak(
    moments: Moments, weights: Sequence[npt.NDArray[np.float64] | np.float64]
) -> npt.NDArray[np.float64]:
    """Bytes of activations at the fullest moment of a rank, for one candidate or for many.

    `weights`: a number, or an array over candidates, for each column of `moments.counts`.
    """
    held = np.zeros((len(moments.counts), *np.shape(weights[0]))) if weights else np.zeros(1)
    for counts, weight in zip(moments.counts.T.astype(np.float64), weights, strict=True):
        if counts.any():
            held += np.multiply.outer(counts, weight)
    return np.asarray(held.max(axis=0))


def activation_bytes(
    actions: RankActions, needs: Sequence[StageNeeds]
) -> Iterator[tuple[Action, float, float]]:
    """For each action: the activations while it runs, and those that are kept after it, in bytes.

    A split backward frees nothing before its W: an upper bound, as W needs the inputs of the
    products and the gradients of their outputs.
    """
    parts = (held_by(action.op, needs[action.stage]) for action in actions)
    for action, (while_running, kept) in zip(actions, held_over(parts), strict=True):
        yield action, while_running, kept


def held_by(op: str, need: StageNeeds) -> HeldBytes:
    """The activations of one action F, B, I or W of a stage."""
    saved, again = need.saved_bytes, need.recomputed_stage_bytes
    if op == "F":
        return HeldBytes(change=saved, peak=saved)
    if op == "B":
        return HeldBytes(change=-saved, peak=need.recomputed_bytes)
    if op == "I":
        return HeldBytes(change=again, peak=again)
    return HeldBytes(change=-(saved + again), peak=0.0)


def stage_needs(workload: Workload, plan: Plan) -> tuple[StageNeeds, ...]:
    """Memory needs of every stage under `plan`."""
    stages, parameters = stages_of(workload, plan), stage_parameters(workload, plan)
    layers = model_bytes(workload, plan, model_ops(workload, shapes_of(workload, plan)))
    known: dict[StageLayers, StageNeeds] = {}
    for stage, own in zip(stages, parameters, strict=True):
        if stage not in known:
            activations = stage_activations(plan, stage, layers)
            state = state_of(workload, plan, own)
            known[stage] = StageNeeds(**activations._asdict(), **state._asdict())
    return tuple(known[stage] for stage in stages)


class LayerBytes(NamedTuple):
    """Bytes of the activations of one layer."""

    kept: float
    whole: float
    working: float
    """What its operations work with beside them, at most."""


def layer_bytes(ops: Ops, recomputed: frozenset[str]) -> LayerBytes:
    """Bytes of a layer of which these operations are recomputed."""
    working = max(op.working_bytes for op in ops)
    return LayerBytes(kept_bytes(ops, recomputed), all_bytes(ops), working)


class ModelBytes(NamedTuple):
    """Bytes of the activations of each kind of layer."""

    embedding: LayerBytes
    blocks: dict[tuple[LayerKind, bool], LayerBytes]
    """By kind, and by whether the block is recomputed."""
    head: LayerBytes
    stage_input: float = 0.0
    """Kept where stages are recomputed as a whole; 0: where blocks are, if any."""


def model_bytes(workload: Workload, plan: Plan, ops: ModelOps) -> ModelBytes:
    """The activations of every kind of layer, with what `plan` recomputes."""
    none = frozenset[str]()
    blocks = {}
    for kind, own in ops.blocks.items():
        blocks[kind, False] = plain = _block_bytes(workload.software, layer_bytes(own, none))
        if plan.recomputation != "none":
            part = layer_bytes(own, recomputed_ops(plan, own))
            blocks[kind, True] = _recomputed_block(workload.software, plan, plain, part)
    again = recomputed_ops(plan, ops.head) if recomputes_head(workload, plan) else none
    by_stages = plan.recomputation == "full" and workload.software.recomputes_stages
    return ModelBytes(
        layer_bytes(ops.embedding, none),
        blocks,
        layer_bytes(ops.head, again),
        message_bytes(workload, plan) if by_stages else 0.0,
    )


def _block_bytes(software: Software, block: LayerBytes) -> LayerBytes:
    """A block with what `software` keeps beside what the backward reads."""
    share = software.kept_activations
    return LayerBytes(share * block.kept, share * block.whole, block.working)


def _recomputed_block(
    software: Software, plan: Plan, plain: LayerBytes, again: LayerBytes
) -> LayerBytes:
    """A recomputed block; `plain`: not recomputed, `again`: by what its backward reads."""
    if plan.recomputation == "selective" and software.selective_keeps is not None:
        kept = software.selective_keeps * software.kept_activations * again.kept
        return plain._replace(kept=kept)
    if plan.recomputation == "full" and software.recomputes_stages:
        return plain._replace(kept=0.0)
    share = software.kept_activations
    kept = again.kept if plan.recomputation == "full" else share * again.kept
    return LayerBytes(kept, share * again.whole, again.working)


class Activations(NamedTuple):
    """Bytes of the activations of one stage, as `StageNeeds` has them."""

    saved_bytes: float
    recomputed_bytes: float
    recomputed_stage_bytes: float


class State(NamedTuple):
    """Bytes of the parameters of one stage and what belongs to them, as `StageNeeds` has them."""

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    gathered_parameter_bytes: float
    gathered_gradient_bytes: float


def stage_activations(plan: Plan, stage: StageLayers, layers: ModelBytes) -> Activations:
    """The activations of a stage on its device; `layers`: those of every kind of layer."""
    sizes = runs_of(stage, layers.embedding, layers.blocks, layers.head)
    whole = activations_of(sizes)
    if layers.stage_input and any(again for _, again, _ in stage.blocks):
        saved, recomputed, recomputed_stage = whole
        whole = Activations(
            saved + layers.stage_input, max(recomputed, recomputed_stage), recomputed_stage
        )
    return offloaded_activations(plan, kept_by_blocks(stage, layers), whole)


def kept_by_blocks(stage: StageLayers, layers: ModelBytes) -> list[tuple[float, int]]:
    """Bytes that each kind of block of a stage keeps for its backward, and how many there are."""
    return [(layers.blocks[kind, again].kept, count) for kind, again, count in stage.blocks]


def offloaded_activations(
    plan: Plan, blocks: Sequence[tuple[float, int]], activations: Activations
) -> Activations:
    """Activations on the device when the host keeps those of the blocks (`kept_by_blocks`)."""
    if not plan.offload_activations:
        return activations
    in_host, buffer = offloaded_bytes(blocks), buffer_bytes(blocks)
    return Activations(
        saved_bytes=max(0.0, activations.saved_bytes - in_host),
        recomputed_bytes=activations.recomputed_bytes + buffer,
        recomputed_stage_bytes=activations.recomputed_stage_bytes + in_host,
    )


def activations_of(layers: Iterable[tuple[LayerBytes, int]]) -> Activations:
    """Activations of a stage with such layers, each with its number."""
    saved, recomputed, recomputed_stage = 0.0, 0.0, 0.0
    for (kept, whole, working), count in layers:
        saved += count * kept
        recomputed = max(recomputed, whole - kept + working)
        recomputed_stage += count * (whole - kept)
    return Activations(saved, recomputed, recomputed_stage)


class ParameterBytes(NamedTuple):
    """Bytes on the device for one trained parameter of a block, neither sharded nor offloaded."""

    value: int
    gradient: int
    optimizer: float
    """Its moments, and the fp32 master copy of a parameter of less precision."""


def bytes_of_parameter(workload: Workload, plan: Plan) -> ParameterBytes:
    """Bytes of a parameter of `workload` under `plan`."""
    return ParameterBytes(
        value=workload.bytes_per_value,
        gradient=gradient_bytes(workload, plan),
        optimizer=MOMENTS[workload.optimizer].matrices + master_bytes(workload),
    )


def state_of(workload: Workload, plan: Plan, parameters: StageParameters) -> State:
    """State of a stage with the given parameters."""
    value, gradient, _ = bytes_of_parameter(workload, plan)
    software = workload.software
    # Where the fp32 parameters are what is sharded, there is no shard in 16 bits beside them.
    only_master = software.fp32_shards and software.master_parameters and value < 4
    is_on_device = plan.distribute_low_prec_param and not plan.offload_optimizer
    whole, trained = parameters.largest_layer, parameters.trained_share
    sharded_gradient = plan.distribute_gradient and not reduces_once(workload, plan)
    beside = value * trained * parameters.total * software.low_precision_gradients
    gradients = gradient * trained * parameters.held(plan, sharded_gradient) + beside
    gathered = gradient * trained * whole * sharded_gradient
    if software.whole_gradients is not None:
        there = whole if plan.distribute_low_prec_param else parameters.total
        gradients, gathered = software.whole_gradients * gradient * trained * there, 0.0
    return State(
        parameter_bytes=(
            0.0
            if only_master and is_on_device
            else value * parameters.held(plan, plan.distribute_low_prec_param)
        ),
        gradient_bytes=gradients,
        optimizer_bytes=(
            0.0
            if plan.offload_optimizer
            else state_bytes(workload, plan, parameters, plan.distribute_param)
        ),
        gathered_parameter_bytes=(
            value * plan.distribute_low_prec_param * _gathered(parameters, software.gathered_units)
            + software.reserved_bytes
        ),
        gathered_gradient_bytes=gathered,
    )


def _gathered(parameters: StageParameters, units: int) -> float:
    """Parameters of the `units` largest units of a stage, which may be whole together."""
    sizes = sorted(
        ((unit.dense + unit.experts, unit.number) for unit in parameters.units), reverse=True
    )
    total, left = 0.0, units
    for size, number in sizes:
        total += size * min(number, left)
        left -= min(number, left)
    return max(total, parameters.largest_layer)


def measured_needs(*, parameter_bytes: float, saved_bytes: float) -> StageNeeds:
    """Memory needs of a stage by measured bytes of its parameters and activations.

    Gradients, and both moments of Adam, are of the parameters' precision. `saved_bytes`: of one
    micro-batch, with what is computed again in its backward.
    """
    return StageNeeds(
        parameter_bytes=parameter_bytes,
        gradient_bytes=parameter_bytes,
        optimizer_bytes=2 * parameter_bytes,
        gathered_parameter_bytes=0.0,
        gathered_gradient_bytes=0.0,
        saved_bytes=saved_bytes,
        recomputed_bytes=0.0,
        recomputed_stage_bytes=0.0,
    )
