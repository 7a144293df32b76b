"""Exhaustive search of more candidates than memory holds: one part of them after the other.

Every candidate is evaluated; what is held is what the answer needs: how many there are and how many
fit, the best of all, and of each cell and kind the best.
"""

import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME, Goal
from parplan.planners.costs.trial import Trial, kind_of
from parplan.planners.search.report import Progress, Report, confirm, no_progress
from parplan.planners.search.workers import WorkerPool
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

PART = 4096
"""Candidates of a part: what an end by force may cost each worker."""

HELD = 10_000
"""Best candidates whose trials are held."""


class Numbered(NamedTuple):
    """A trial and the number of its candidate, from 1 on."""

    number: int
    trial: Trial


class PartResult(NamedTuple):
    """What is kept of a part of the candidates: how many fit, and the trials that became held."""

    num_fitting: int
    held: tuple[Numbered, ...]


class _Place(NamedTuple):
    key: tuple[bool, float]
    number: int
    trial: Trial


@dataclass(slots=True, kw_only=True)
class KeptTrials:
    """The trials that an answer needs, whatever the order in which they come."""

    goal: Goal
    most: int
    best: list[_Place] = field(default_factory=list)
    """At most so many, the best first."""
    cells: dict[object, _Place] = field(default_factory=dict)
    """The best of each kind, and of each number of stages and size of a micro-batch; where nothing
    fits, the one that needs the least memory."""
    front: list[_Place] = field(default_factory=list)
    """Of step time and memory: none is beaten in both. The fastest first."""

    def add(self, numbered: Numbered) -> bool:
        """Hold a trial if it is one of them; whether it is."""
        number, trial = numbered
        late = trial.step_s is None
        key = self.goal.energy(trial) if late else self.goal.key(trial)
        place = _Place((late, key), number, trial)
        return any([self._add_cells(place), self._add_best(place), self._add_front(place)])

    def _add_cells(self, place: _Place) -> bool:
        plan, added = place.trial.plan, False
        for cell in (
            ("closest", place.trial.fits),
            ("kind", kind_of(plan)) if place.trial.fits else None,
            ("sizes", plan.num_stages, plan.batch_per_device),
        ):
            if cell is not None and (cell not in self.cells or place[:2] < self.cells[cell][:2]):
                self.cells[cell] = place
                added = True
        return added

    def _add_best(self, place: _Place) -> bool:
        if place.trial.step_s is None:
            return False
        if len(self.best) == self.most and place[:2] > self.best[-1][:2]:
            return False
        insort(self.best, place, key=lambda p: p[:2])
        del self.best[self.most :]
        return True

    def _add_front(self, place: _Place) -> bool:
        if place.trial.step_s is None:
            return False
        own = _goals(place)
        if any(a <= own[0] and b <= own[1] and (a, b, n) < own
               for a, b, n in map(_goals, self.front)):  # fmt: skip
            return False
        self.front = [p for p in self.front if not _beats(own, _goals(p))]
        insort(self.front, place, key=_goals)
        return True

    def trials(self) -> list[Numbered]:
        """All of them, in the order of their numbers."""
        places = {p.number: p.trial for p in (*self.best, *self.cells.values(), *self.front)}
        return [Numbered(number, places[number]) for number in sorted(places)]


def _goals(place: _Place) -> tuple[float, float, int]:
    return place.trial.step_s or 0.0, max(place.trial.memory_bytes), place.number


def _beats(one: tuple[float, float, int], two: tuple[float, float, int]) -> bool:
    return one[0] <= two[0] and one[1] <= two[1] and one < two


def streamed(
    workload: Workload,
    cluster: Cluster,
    candidates: Sequence[Plan],
    *,
    memory_ratio: float = 0.8,
    workers: int = 1,
    progress: Progress = no_progress,
    goal: Goal = STEP_TIME,
    why_not: Callable[[Plan], str] | None = None,
    known: Sequence[PartResult] = (),
    keep: Callable[[PartResult], None] = lambda part: None,
    executor: Executor | None = None,
) -> Report:
    """Try every candidate, as `exhaustive` does, in bounded memory.

    `candidates`: made one by one (a `parplan.planners.spaces.space.Space`). `why_not`: why one is
    not wanted, empty if it is. `known`: the parts of an interrupted search for the same. `keep`:
    called with each part that is done, in their order. The report holds the trials of
    `KeptTrials`, with their numbers.
    """
    held, fitting = KeptTrials(goal=goal, most=HELD), 0
    for part in known:
        fitting += part.num_fitting
        for one in part.held:
            held.add(one)
    begin, stopped, first = time.perf_counter(), "finished", len(known)
    done = min(first * PART, len(candidates))
    shared = SharedCosts(workload, cluster)
    try:
        evaluated = partial(_evaluated, shared, memory_ratio)
        parts = _parts(candidates, first, why_not)
        with (
            WorkerPool(workers, executor) as spread,
            closing(spread.in_order(evaluated, parts)) as results,
        ):
            for trials in results:
                new = [Numbered(done + i, t) for i, t in enumerate(trials, start=1)]
                num = sum(trial.fits for trial in trials)
                part = PartResult(num, tuple(one for one in new if held.add(one)))
                keep(part)
                fitting, done = fitting + num, done + len(trials)
                progress("candidates", done, len(candidates))
    except KeyboardInterrupt:
        stopped = "interrupted"
    found = held.trials()
    report = Report(
        trials=tuple(trial for _, trial in found),
        compile_s=time.perf_counter() - begin,
        cost_s=0.0,
        goal=goal,
        stopped=stopped,
        numbers=tuple(number for number, _ in found),
        num_tried=done,
        num_fitting=fitting,
    )
    confirm(shared, report.best)
    return report


Wanted = tuple[Plan, str]
"""A candidate, and why it is not wanted."""


def _parts(
    candidates: Sequence[Plan], first: int, why_not: Callable[[Plan], str] | None
) -> Iterator[list[Wanted]]:
    """The candidates that are left, none made before it is asked for."""
    for begin in range(first * PART, len(candidates), PART):
        plans = (candidates[i] for i in range(begin, min(begin + PART, len(candidates))))
        yield [(plan, why_not(plan) if why_not else "") for plan in plans]


def _evaluated(shared: SharedCosts, memory_ratio: float, wanted: Iterable[Wanted]) -> list[Trial]:
    wanted = list(wanted)
    found = iter(shared.evaluated(memory_ratio, [plan for plan, reason in wanted if not reason]))
    return [Trial(plan=plan, reason=reason) if reason else next(found) for plan, reason in wanted]
