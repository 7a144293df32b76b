"""Tighter bounds of plans: with the fewest recomputed blocks with which each fits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from parplan.planners.bounds.depths import Depths, StackedMoments, depths_of, least_depths
from parplan.planners.bounds.layer_tables import before_backward
from parplan.planners.bounds.schedule_bounds import stages_of_rows, step_bounds_s
from parplan.planners.bounds.space_rows import RowBlock, Rows
from parplan.planners.bounds.space_table import IMPOSSIBLE, ScheduleKey, SpaceTable
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.sim.cost_model.communication import slowed_share
from parplan.sim.cost_model.stage_costs import host_message_s, reduces_once
from parplan.sim.cost_model.stage_formula_of_rows import Floats, SurroundingsOfRows, costs_of_rows
from parplan.sim.memory.moments import Moments
from parplan.sim.schedules import ScheduleKind, schedule_kind
from parplan.sim.ticks import Ints, ticks_of_seconds

MomentsOf = Callable[[ScheduleKey], Sequence[Moments]]


class _Slower(NamedTuple):
    """Plans of a block that need more than the least recomputation."""

    places: Ints
    """In the space of the table."""
    layers: Floats
    """[plans, kinds, 5]."""
    work: Floats
    """`ParameterWork`, [plans, kinds, 3]."""
    zero: Ints
    others: tuple[float, float, int, bool]
    """Seconds and latency of a message, micro-batches, whether reductions are overlapped."""


def tighten(table: SpaceTable, bounds: Floats, ceiling: float, moments_of: MomentsOf) -> None:
    """Raise those of the `bounds` of a table that are below `ceiling`, where plans have variants.

    Plans that fit with no number of recomputed blocks get an infinite bound.
    """
    if not isinstance(table.parts, RelaxedParts):
        return
    for rows in table.by_shape.values():
        slower: dict[ScheduleKind, list[_Slower]] = {}
        known: dict[ScheduleKey, StackedMoments] = {}
        for block, _ in rows.members():
            below = [n for n in block.numbers if bounds[block.places(n[0])].min() < ceiling]
            depths = _depths(table.parts, block) if below else None
            if depths is None:
                continue
            for number, kind in below:
                name = block.group.orderings[number].schedule
                key = name, rows.num_ranks, block.virtual, block.group.num_micro_batches
                if key not in known:
                    by_times = schedule_kind(name).by_times
                    own = before_backward(key) if by_times else moments_of(key)
                    known[key] = StackedMoments(own, rows.place)
                found = _of_ordering(table, block, number, depths, known[key], bounds, ceiling)
                if len(found.places):
                    slower.setdefault(kind, []).append(found)
        for kind, several in slower.items():
            _raise(table, rows, kind, several, bounds)


def _depths(parts: RelaxedParts, block: RowBlock) -> list[Depths] | None:
    a, _, c = block.inner
    found = []
    for i, k in np.ndindex(a, c):
        own = depths_of(parts, block.plan(i, 0, k))
        if own is None:
            return None
        found.append(own)
    return found


def _of_ordering(
    table: SpaceTable,
    block: RowBlock,
    number: int,
    depths: Sequence[Depths],
    fits: StackedMoments,
    bounds: Floats,
    ceiling: float,
) -> _Slower:
    parts, (_, b, c) = table.parts, block.inner
    states = np.array([parts.states(block.plan(0, j)) for j in range(b)])
    lost, needed = least_depths(block, depths, states, fits, table.limit)
    own = bounds[block.places(number)]
    own[lost] = IMPOSSIBLE
    below = own[needed.rows] < ceiling
    rows = needed.rows[below]
    zero = rows // c % b
    work = np.array([parts.parameters(block.plan(0, j)) for j in range(b)])
    first = block.plan()
    counted = first.num_micro_batches, first.overlap_gradient_reduction
    return _Slower(
        places=block.places(number).start + rows,
        layers=needed.layers[below],
        work=work[zero],
        zero=np.array(block.group.zero_stages)[zero],
        others=(*parts.message(first), *counted),
    )


def _raise(
    table: SpaceTable, rows: Rows, kind: ScheduleKind, several: list[_Slower], bounds: Floats
) -> None:
    """Bound plans of one shape and way of backwards with these layers."""
    workload = table.space.workload
    sizes = [len(one.places) for one in several]
    others = np.repeat(np.array([one.others for one in several], dtype=np.float64), sizes, axis=0)
    send_s, latency_s, counts, overlaps = others.T
    around = SurroundingsOfRows(
        send_s=send_s,
        latency_s=latency_s,
        zero_stage=np.concatenate([one.zero for one in several]).astype(np.float64),
        overlaps_reduction=overlaps,
        message_s=host_message_s(workload, rows.num_ranks),
        reduces_once=reduces_once(workload, rows.blocks[0].plan()),
        sharding_waits=workload.software.sharded_in_lists,
        slowed_share=slowed_share(table.space.cluster, workload.software),
        post_validation=workload.software.post_validation,
    )
    layers = np.concatenate([one.layers for one in several])
    work = np.concatenate([one.work for one in several])
    ticks = ticks_of_seconds(**costs_of_rows(layers, work, around))
    own = stages_of_rows(ticks, np.arange(len(layers)), rows.place)
    found = step_bounds_s(kind, rows.num_ranks, counts.astype(np.int64), own)
    places = np.concatenate([one.places for one in several])
    bounds[places] = np.maximum(bounds[places], found)
