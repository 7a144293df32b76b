"""The arithmetic of `parplan.sim` that turns parts of plans into costs and memory, for many rows.

It is done in the same order, so that the results equal those of single plans.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from parplan.planners.bounds.schedule_bounds import stages_by_rank
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import activation_peak
from parplan.sim.schedules import ScheduleKind
from parplan.sim.ticks import Ints, StageTicks


def stages_of_rows(ticks: StageTicks, rows: Ints, place: Ints) -> StageTicks:
    """Some of the rows, by stages instead of kinds of stages."""
    names = (field.name for field in fields(StageTicks))
    return StageTicks(**{name: getattr(ticks, name)[rows][:, place] for name in names})


def least_bytes(
    kind: ScheduleKind, num_ranks: int, place: Ints, activations: Floats, states: Floats
) -> Floats:
    """As `parplan.planners.bounds.schedule_bounds.memory_bound_bytes` has it, shape [rows]."""
    own = place[stages_by_rank(kind, num_ranks, len(place))]
    state = states[:, :, :3]
    each = state[:, :, 0] + state[:, :, 1] + state[:, :, 2]
    one = activations[:, :, 0] + activations[:, :, 1]
    least = np.zeros(len(each))
    for ranks in {tuple(row) for row in own.tolist()}:
        held, most = np.zeros(len(each)), np.zeros(len(each))
        for stage in ranks:
            held, most = held + each[:, stage], np.maximum(most, one[:, stage])
        np.maximum(least, held + most, out=least)
    return np.asarray(least * (1 - 1e-12))


def fit_exactly(
    activations: Floats, states: Floats, place: Ints, moments: Sequence[Moments], limit: float
) -> npt.NDArray[np.bool_]:
    """Whether each row fits, as `parplan.sim.memory.peak.rank_memory` adds it up for one plan."""
    fits = np.ones(len(activations), dtype=bool)
    seen: set[tuple[tuple[int, ...], bytes]] = set()
    for rank in moments:
        kinds = tuple(int(place[stage]) for stage in rank.stages)
        if (kinds, rank.counts.tobytes()) in seen:
            continue
        seen.add((kinds, rank.counts.tobytes()))
        columns = [activations[:, k, c] for c in (0, 2, 1) for k in kinds]
        total = _state(states, list(kinds)) + activation_peak(rank, columns)
        fits &= total <= limit
    return fits


def _state(states: Floats, kinds: list[int]) -> Floats:
    """`RankMemory.state_bytes` of a rank with such stages."""

    def total(column: int) -> Floats:
        values = np.zeros(len(states))
        for kind in kinds:
            values = values + states[:, kind, column]
        return values

    whole = [states[:, kinds, column].max(axis=1) for column in (3, 4)]
    return np.asarray((whole[0] + total(0)) + (whole[1] + total(1)) + total(2))
