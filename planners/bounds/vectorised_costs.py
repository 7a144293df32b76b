"""The arithmetic of `parplan.sim` that turns parts of plans into costs and memory, for many rows.

It is done in the same order, so that the results equal those of single plans.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from parplan.planners.bounds.schedule_bounds import stages_by_rank
from parplan.planners.costs.cost_tables import Floats
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import activation_peak
from parplan.sim.schedules import ScheduleKind
from parplan.sim.ticks import Ints, StageTicks
from parplan.sim.workload import Workload


def seconds_of_rows(
    workload: Workload, layers: Floats, work: Floats, others: Floats, num_ranks: int
) -> dict[str, Floats]:
    """The fields of `StageCosts` that are not 0, shape [rows, kinds].

    As `parplan.sim.cost_model.stage_costs.stage_costs` has them. `layers`: `LayerWork`, shape
    [rows, kinds, 4]; `work`: `ParameterWork`, [rows, kinds, 3]; `others`, [rows, 5]: seconds on the
    link and latency of a message, micro-batches, whether reductions overlap, ZeRO stage.
    """
    forward, backward, weights, count = np.moveaxis(layers, 2, 0)
    gathered, reduced, optimizer = np.moveaxis(work, 2, 0)
    send_s, latency_s, _, overlaps, zero = (others[:, i : i + 1] for i in range(5))
    message_s = workload.framework.message_s if num_ranks > 1 else 0.0
    once = num_ranks > 1 and workload.software.pipelines_reduce_once
    each_time = np.where(zero == 3, gathered, 0.0)
    both = np.where(zero == 3, each_time + (0.0 if once else reduced), 0.0)
    return {
        "forward_s": _prefetched(forward, each_time, count) + message_s,
        "input_gradient_s": _prefetched(backward, both, count) + message_s,
        "weight_gradient_s": weights,
        "send_s": send_s,
        "latency_s": latency_s,
        "reduce_s": reduced,
        "reduce_buckets": np.where(overlaps > 0, np.maximum(1.0, count), 1.0),
        "reduce_each_micro_batch": (zero >= 2) & (not once),
        "optimizer_s": optimizer,
        "gather_s": np.where((zero == 1) | (zero == 2), gathered, 0.0),
    }


def _prefetched(compute_s: Floats, gather_s: Floats, num_layers: Floats) -> Floats:
    """`parplan.sim.cost_model.stage_costs.prefetched_s` of arrays."""
    layers = np.maximum(1.0, num_layers)
    compute, gather = compute_s / layers, gather_s / layers
    return np.asarray(gather + (layers - 1) * np.maximum(compute, gather) + compute)


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
