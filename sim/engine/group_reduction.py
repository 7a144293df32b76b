"""Gradient reduction, optimizer step and parameter gather of a data-parallel group.

A collective begins when the last rank of its group is ready and takes all of them equally long, so
the slowest rank delays its whole group. Every rank has one stream for them, first come, first
served, in the order of its list.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parplan.sim.costs import StageCosts
from parplan.sim.event_table import GATHER, OPTIMIZER, REDUCE
from parplan.sim.programs.instructions import RankActions, last_gradient_index
from parplan.sim.step.data_parallel import Span
from parplan.sim.ticks import Ints, to_ps


class GroupEnd(NamedTuple):
    """Times of the gradient reduction and the optimizer of the replicas of one pipeline rank."""

    reductions: list[Span]
    """The same for all of them."""
    own: list[list[Span]]
    """Of each: optimizer steps and gathers."""
    end_ps: list[int]


def finish_group(
    rank: int,
    actions: RankActions,
    costs: Sequence[StageCosts],
    slowdowns: Sequence[float],
    start: Ints,
    end: Ints,
) -> GroupEnd:
    """Reductions, optimizer steps and gathers of the replicas of pipeline rank `rank`.

    `slowdowns` of each replica; `start` and `end` of their actions in picoseconds, shape
    [replicas, actions].
    """
    last = last_gradient_index(actions)
    reductions, free = [], 0
    for place, (stage, op, _) in enumerate(actions):
        cost = costs[stage]
        if op not in "BW" or not (last[stage] == place or cost.reduce_each_micro_batch):
            continue
        spans = _reduce(rank, stage, cost, start[:, place], end[:, place], free)
        if spans:
            reductions += spans
            free = spans[-1].end_ps
    ready = np.maximum(end[:, -1], free).tolist() if actions else [0] * len(slowdowns)
    own: list[list[Span]] = [[] for _ in slowdowns]
    for replica, factor in enumerate(slowdowns):
        for stage in sorted(last):
            takes = to_ps(costs[stage].optimizer_s * factor)
            ready[replica] = _add(own[replica], rank, stage, OPTIMIZER, ready[replica], takes)
    if any(to_ps(costs[stage].gather_s) for stage in last):
        ready = [max(ready)] * len(ready)
    for replica in range(len(slowdowns)):
        for stage in sorted(last):
            takes = to_ps(costs[stage].gather_s)
            ready[replica] = _add(own[replica], rank, stage, GATHER, ready[replica], takes)
    return GroupEnd(reductions, own, ready)


def _add(spans: list[Span], rank: int, stage: int, kind: int, now: int, takes: int) -> int:
    if takes > 0:
        spans.append(Span(rank, stage, kind, now, now + takes))
    return now + takes


def _reduce(
    rank: int, stage: int, cost: StageCosts, start: Ints, end: Ints, free: int
) -> list[Span]:
    """The buckets of one reduction: bucket i begins when the last replica's share is ready."""
    total, buckets, spans = to_ps(cost.reduce_s), cost.reduce_buckets, []
    if total == 0:
        return []
    for i in range(buckets):
        ready = int((start + (end - start) * (i + 1) // buckets).max())
        begin = max(ready, free)
        free = begin + total * (i + 1) // buckets - total * i // buckets
        spans.append(Span(rank, stage, REDUCE, begin, free))
    return spans
