"""Batched evaluation of plans on an executor."""

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial

from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.trial import Trial
from parplan.planners.search.workers import WorkerPool
from parplan.sim.plan import Plan

AT_ONCE = 64
"""Plans that share their lists are handed over so many at a time."""


def evaluated_remotely(
    spread: WorkerPool, shared: SharedCosts, memory_ratio: float, groups: Sequence[Sequence[Plan]]
) -> Generator[Sequence[Trial], None, None]:
    """The trials of plans in groups that share their lists, some at a time, in order."""
    pieces = [group[i : i + AT_ONCE] for group in groups for i in range(0, len(group), AT_ONCE)]
    evaluated = partial(shared.evaluated, memory_ratio)
    with closing(spread.in_order(evaluated, pieces)) as results:
        yield from results
