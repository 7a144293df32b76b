"""Lower bounds over boxes of variants of one plan, for branch and bound."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from parplan.planners.bounds.schedule_bounds import least_bytes, stages_of_rows, step_bounds_s
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.spaces.variants import Box
from parplan.sim.cost_model.communication import slowed_share
from parplan.sim.cost_model.offload import host_rate
from parplan.sim.cost_model.stage_costs import host_message_s, reduces_once
from parplan.sim.cost_model.stage_formula_of_rows import (
    Floats,
    SurroundingsOfRows,
    add_transfers,
    costs_of_rows,
)
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak_of_rows import rows_fit
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.ticks import ticks_of_seconds

ORDER = (
    *("gradient_dtype", "offload_activations", "recomputed_layers", "overlap_tensor_parallel"),
    *("shard_group", "offload_optimizer", "overlap_gradient_reduction"),
)
"""The fields by which boxes are divided, those first that cost and save the most."""


def divided(box: Box) -> list[Box]:
    """The parts of a box: halves of its depths, single values of another field.

    Empty for a box of one variant.
    """
    for name in ORDER:
        values = getattr(box, name)
        if len(values) == 1:
            continue
        if name != "recomputed_layers":
            return [box._replace(**{name: (value,)}) for value in values]
        ordered = sorted(values, key=lambda v: (v is None, v))
        middle = len(ordered) // 2
        halves = ordered[:middle], ordered[middle:]
        return [box._replace(recomputed_layers=tuple(half)) for half in halves]
    return []


def box_lower_bounds(
    parts: RelaxedParts,
    plan: Plan,
    boxes: Sequence[Box],
    moments: Sequence[Moments],
    limit: float,
    *,
    bounded_by: Literal["step", "memory"],
) -> list[float]:
    """Seconds or bytes that every variant in each box needs at least; infinite where none fits.

    `moments`: those of the lists of `plan`.
    """
    may = box_fits(parts, plan, boxes, moments, limit)
    bounds = box_memory_bytes if bounded_by == "memory" else box_bounds_s
    lower_bounds: list[float] = np.where(may, bounds(parts, plan, boxes), np.inf).tolist()
    return lower_bounds


def box_memory_bytes(parts: RelaxedParts, plan: Plan, boxes: Sequence[Box]) -> Floats:
    """Bytes that the fullest rank of every variant needs at least, shape [boxes]."""
    activations, states = _memory(parts, plan, boxes)
    kind, place = schedule_kind(plan.schedule), parts.kinds(plan).place
    return least_bytes(kind, plan.num_stages, place, activations, states)


def box_fits(
    parts: RelaxedParts,
    plan: Plan,
    boxes: Sequence[Box],
    moments: Sequence[Moments],
    limit: float,
) -> npt.NDArray[np.bool_]:
    """Whether a variant of each box may fit, shape [boxes]: exact for boxes of one variant.

    `moments`: those of the lists of `plan`.
    """
    activations, states = _memory(parts, plan, boxes)
    return rows_fit(activations, states, parts.kinds(plan).place, moments, limit)


def box_bounds_s(parts: RelaxedParts, plan: Plan, boxes: Sequence[Box]) -> Floats:
    """Seconds that a step of every variant takes at least, shape [boxes]."""
    layers = np.array([parts.layers_in(plan, box) for box in boxes])
    work = np.array([parts.parameters_in(plan, box) for box in boxes])
    send_s, latency_s = parts.message(plan)
    overlaps = [max(box.overlap_gradient_reduction) for box in boxes]
    around = SurroundingsOfRows(
        send_s=np.full(len(boxes), send_s),
        latency_s=np.full(len(boxes), latency_s),
        zero_stage=np.full(len(boxes), float(plan.zero_stage)),
        overlaps_reduction=np.array(overlaps, dtype=np.float64),
        message_s=host_message_s(parts.workload, plan.num_stages),
        reduces_once=reduces_once(parts.workload, plan),
        sharding_waits=parts.workload.software.sharded_in_lists,
        slowed_share=slowed_share(parts.cluster, parts.workload.software),
        post_validation=parts.workload.software.post_validation,
    )
    seconds = costs_of_rows(layers, work, around)
    blocks = np.array([float(stage.num_blocks) for stage in parts.kinds(plan).stages])
    add_transfers(seconds, _transfers_s(parts, plan, boxes), blocks)
    kind, place = schedule_kind(plan.schedule), parts.kinds(plan).place
    ticks = stages_of_rows(ticks_of_seconds(**seconds), np.arange(len(boxes)), place)
    counts = np.full(len(boxes), plan.num_micro_batches)
    return step_bounds_s(kind, plan.num_stages, counts, ticks)


def _memory(parts: RelaxedParts, plan: Plan, boxes: Sequence[Box]) -> tuple[Floats, Floats]:
    activations = np.array([parts.activations_in(plan, box) for box in boxes])
    return activations, np.array([parts.states_in(plan, box) for box in boxes])


def _transfers_s(parts: RelaxedParts, plan: Plan, boxes: Sequence[Box]) -> Floats:
    """Seconds of a micro-batch's activations to the host at least, shape [boxes, kinds]."""
    found = np.zeros((len(boxes), len(parts.kinds(plan).stages)))
    for number, box in enumerate(boxes):
        if False not in box.offload_activations and len(box.gradient_dtype) == 1:
            rate = host_rate(parts.cluster.accelerator, "offload_activations")
            found[number] = parts.moved_in(plan, box) / rate
    return found
