"""Schedule-independent lower bounds on step time and memory.

Each bound of time is the length of a path that every order has, in the same whole picoseconds as
simulators count, so it is never above the exact step time (Land and Doig 1960 is the use of it).
A rank is in order, so it takes what its first stage's earliest forward waits for, all its work, and
then the way of its last gradient back to the first stage.
"""

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.peak import StageNeeds
from parplan.sim.schedules import ScheduleKind
from parplan.sim.schedules.placement import rank_of_stage, stages_of_rank
from parplan.sim.ticks import Ints, StageTicks, to_seconds


def step_bounds_s(
    kind: ScheduleKind, num_ranks: int, micro_batches: Sequence[int] | Ints, ticks: StageTicks
) -> npt.NDArray[np.float64]:
    """Seconds that a step takes at least, shape [candidates].

    All candidates have schedules of one placement that (all or none of them) split the backward;
    `micro_batches` has one number for each, of which each copy of a stage has its share.
    """
    count = np.array(micro_batches, dtype=np.int64)[:, None] // (1 if kind.one_copy else 2)
    own = stages_by_rank(kind, num_ranks, ticks.num_stages)
    paths = _Paths(kind, num_ranks, ticks)
    finish = _total(ticks.optimizer + ticks.gather, own)
    home = finish[:, [rank_of_stage(kind.placement, num_ranks, 0)]] + paths.reduce_after[:, :1]
    repeats = np.where(ticks.reduce_each_micro_batch, count, 1)
    work = count * _total(paths.work, own) + _total(paths.once, own)
    chain = work
    if kind.splits_backward:
        chain = count * _total(paths.forward_work + paths.chain, own)
    start = _least(paths.fill, own)
    by_themselves = kind.splits_backward and kind.one_copy
    staggered = np.logical_and(ticks.post_validation.any(axis=1), by_themselves)
    # Of ranks that begin steps at times of their own, what is before them does not count.
    before = np.where(staggered[:, None], start, 0)
    bound = np.zeros(ticks.num_candidates, dtype=np.int64)
    for path in (
        start - before + work + _least(paths.reduce_after, own) + finish,
        start + chain + _least(paths.drain, own) + home,
        _least(paths.first_backward, own) - before + _total(repeats * ticks.reduce, own) + finish,
    ):
        np.maximum(bound, path.max(axis=1), out=bound)
    # The norm of all gradients comes between the last reduction and the first optimizer step.
    bound += np.where(staggered, 0, ticks.norm_sync.max(axis=1))
    return to_seconds(bound)


def stages_by_rank(kind: ScheduleKind, num_ranks: int, num_stages: int) -> Ints:
    """The stages that each rank holds, shape [ranks, stages of a rank]."""
    virtual = num_stages // num_ranks
    ranks = range(num_ranks)
    return np.array([stages_of_rank(kind.placement, num_ranks, r, virtual) for r in ranks])


def _total(values: Ints, own: Ints) -> Ints:
    """The sum over the stages of each rank, shape [candidates, ranks]."""
    total = values[:, own[:, 0]]
    for turn in range(1, own.shape[1]):
        total = total + values[:, own[:, turn]]
    return total


def _least(values: Ints, own: Ints) -> Ints:
    """The least of the stages of each rank, shape [candidates, ranks]."""
    least = values[:, own[:, 0]]
    for turn in range(1, own.shape[1]):
        least = np.minimum(least, values[:, own[:, turn]])
    return least


class _Paths:
    """Picoseconds of one micro-batch, all of shape [candidates, stages]."""

    def __init__(self, kind: ScheduleKind, num_ranks: int, ticks: StageTicks) -> None:
        both, inputs, weights, both_first, weights_first = (
            ticks.durations[:, :, i] for i in range(1, 6)
        )
        self.forward: Ints = ticks.durations[:, :, 0]
        # In a pair with a backward, a forward adds less than it takes alone.
        saved = np.rint(ticks.overlap_share * self.forward).astype(np.int64) * kind.overlaps
        self.forward_work = self.forward - saved
        if kind.splits_backward:
            self.chain = np.minimum(both, inputs)
            self.work = self.forward_work + np.minimum(both, inputs + weights)
            self.once = np.minimum(both_first - both, weights_first - weights)
            longest = np.maximum(np.maximum(both, both_first), np.maximum(weights, weights_first))
        else:
            self.chain = both
            self.work = self.forward_work + both
            self.once = both_first - both
            longest = np.maximum(both, both_first)
        if kind.overlaps:
            longest = longest + self.forward.max(axis=1, keepdims=True)
        self.reduce_after = _reduce_after(ticks, longest)
        hop = self._hops(kind, num_ranks, ticks)
        self.fill = _before((self.forward + hop[0])[:, :-1])
        back = (self.chain + hop[1])[:, 1:]
        to_here = np.cumsum(back[:, ::-1], axis=1)[:, ::-1]
        turn = (self.fill + self.forward)[:, -1:]
        self.first_backward = turn + np.concatenate((to_here, np.zeros_like(turn)), axis=1)
        # From the end of the part of a backward that others wait for to that of the first stage.
        rest = (self.work - self.forward_work)[:, :1]
        inner = self.chain.copy()
        inner[:, :1] = rest
        self.drain = _before(inner[:, :-1] + hop[1][:, 1:])
        self.drain[:, :1] = rest - self.chain[:, :1]

    @staticmethod
    def _hops(kind: ScheduleKind, num_ranks: int, ticks: StageTicks) -> tuple[Ints, Ints]:
        """Time of a message to the next stage, and of one to the previous stage."""
        rank = [rank_of_stage(kind.placement, num_ranks, s) for s in range(ticks.num_stages)]
        crosses = np.array([a != b for a, b in pairwise(rank)], dtype=np.int64)
        message = ticks.send + ticks.latency
        onward, back = np.zeros_like(message), np.zeros_like(message)
        onward[:, :-1] = message[:, :-1] * crosses
        back[:, 1:] = message[:, 1:] * crosses
        return onward, back


def _before(steps: Ints) -> Ints:
    """Sums of all steps before each place, which is one more place than there are steps."""
    zero = np.zeros((len(steps), 1), dtype=np.int64)
    return np.concatenate((zero, np.cumsum(steps, axis=1)), axis=1)


def _reduce_after(ticks: StageTicks, longest: Ints) -> Ints:
    """Earliest start of a stage's gradient reduction, in time after its last backward.

    Less for longer backwards, beside which more is reduced
    (`parplan.sim.step.step_tables.reduce_tail`).
    """
    n, total = np.maximum(ticks.reduce_buckets, 1), ticks.reduce
    last_bucket = total - total * (n - 1) // n
    first_bucket = total - (longest - longest // n)
    least: Ints = np.maximum(np.maximum(last_bucket, first_bucket), 0)
    return least


def memory_bound_bytes(kind: ScheduleKind, num_ranks: int, needs: Sequence[StageNeeds]) -> float:
    """Bytes that the fullest rank needs at least: its state, and one micro-batch of one stage.

    A backward that is split may hold all that is recomputed rather than what one layer works with.
    """
    most = 0.0

    def held(need: StageNeeds) -> float:
        again = need.recomputed_bytes
        if kind.splits_backward:
            again = min(again, need.recomputed_stage_bytes)
        return need.saved_bytes + again

    virtual = len(needs) // num_ranks
    for rank in range(num_ranks):
        own = [needs[s] for s in stages_of_rank(kind.placement, num_ranks, rank, virtual)]
        state = sum(n.parameter_bytes + n.gradient_bytes + n.optimizer_bytes for n in own)
        most = max(most, state + max(map(held, own)))
    # Sums in another order are rounded differently.
    return most * (1 - 1e-12)


def stages_of_rows(ticks: StageTicks, rows: Ints, place: Ints) -> StageTicks:
    """Some of the rows, by stages instead of kinds of stages."""
    names = (field.name for field in fields(StageTicks))
    return StageTicks(**{name: getattr(ticks, name)[rows][:, place] for name in names})


def least_bytes(
    kind: ScheduleKind, num_ranks: int, place: Ints, activations: Floats, states: Floats
) -> Floats:
    """`memory_bound_bytes` of many plans at once, shape [rows]."""
    own = place[stages_by_rank(kind, num_ranks, len(place))]
    state = states[:, :, :3]
    each = state[:, :, 0] + state[:, :, 1] + state[:, :, 2]
    again = activations[:, :, 1]
    if kind.splits_backward:
        again = np.minimum(again, activations[:, :, 2])
    one = activations[:, :, 0] + again
    least = np.zeros(len(each))
    for ranks in {tuple(row) for row in own.tolist()}:
        held, most = np.zeros(len(each)), np.zeros(len(each))
        for stage in ranks:
            held, most = held + each[:, stage], np.maximum(most, one[:, stage])
        np.maximum(least, held + most, out=least)
    return np.asarray(least * (1 - 1e-12))
