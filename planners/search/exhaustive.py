"""Exhaustive search: compile every candidate, keep what fits in memory, time the rest.

The steps and their order are those of Advanced Parallelization. Candidates that share their lists
are taken together, so that the lists are made once, and are timed by the fast evaluator. The
choice is then played by the simulator, which has to agree to the picosecond.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME, Goal
from parplan.planners.costs.trial import Trial
from parplan.planners.search.workers import WorkerPool
from parplan.sim.fast.fast import Kernel, kernel_for
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict, schedule_key
from parplan.sim.workload import Workload

Item = TypeVar("Item")
Progress = Callable[[str, int, int], None]
"""(what is being done, how many are done, of how many)"""


def no_progress(what: str, done: int, of: int) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a search found: every candidate in the order of the space, and what it took."""

    trials: tuple[Trial, ...]
    compile_s: float
    cost_s: float
    goal: Goal = STEP_TIME
    """What the best is the best of."""
    stopped: str = "finished"
    """Why it ended: finished, or interrupted, and then the rest of the candidates is not there."""
    numbers: tuple[int, ...] | None = None
    """Which candidates the trials are of, from 1 on, where not all were held; None: all were."""
    num_tried: int | None = None
    """Candidates that were tried, where not all were held."""
    num_fitting: int | None = None
    """Of these, those that fit in memory."""

    @property
    def num_possible(self) -> int:
        """Candidates that fit in memory."""
        if self.num_fitting is not None:
            return self.num_fitting
        return sum(trial.fits for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The best possible candidate, the first of equals; None if nothing fits."""
        return self.goal.best(self.trials)

    @property
    def closest(self) -> Trial | None:
        """Of the candidates that do not fit, the one that needs the least memory."""
        laid_out = [t for t in self.trials if not t.fits and t.memory_bytes]
        return min(laid_out, key=lambda t: max(t.memory_bytes), default=None)


def exhaustive(
    workload: Workload,
    cluster: Cluster,
    candidates: Sequence[Plan],
    *,
    memory_ratio: float = 0.8,
    workers: int = 1,
    progress: Progress = no_progress,
    goal: Goal = STEP_TIME,
    known: Iterable[Trial] = (),
    keep: Callable[[Trial], None] = lambda trial: None,
    executor: Executor | None = None,
) -> Report:
    """Try every candidate, on at most `workers` processes, or on `executor`.

    `memory_ratio`: the share of each device's memory that a plan may use. `known`: trials of an
    interrupted search for the same. `keep`: called with each trial when nothing more is to be found
    out about it. An interrupt keeps the candidates that were tried.
    """
    shared = SharedCosts(workload, cluster)
    check = partial(_check, shared, memory_ratio)
    done_before = {trial.plan: trial for trial in known}
    trials = {i: done_before[plan] for i, plan in enumerate(candidates) if plan in done_before}
    start = compiled = time.perf_counter()
    stopped = "finished"
    try:
        with WorkerPool(workers, executor) as spread:
            new = [(i, plan) for i, plan in enumerate(candidates) if i not in trials]
            _in_groups(spread, check, new, schedule_key, "compile", progress, trials, keep)
            compiled = time.perf_counter()
            possible = [(i, t) for i, t in sorted(trials.items()) if t.fits and t.step_s is None]
            cost = partial(_cost, shared, _kernel(trial for _, trial in possible))
            _in_groups(
                *(spread, cost, possible, lambda t: schedule_key(t.plan), "simulate"),
                *(progress, trials, keep),
            )
    except KeyboardInterrupt:
        stopped = "interrupted"
    done = time.perf_counter()
    report = Report(
        trials=tuple(trial for _, trial in sorted(trials.items())),
        compile_s=compiled - start,
        cost_s=done - compiled,
        goal=goal,
        stopped=stopped,
    )
    confirm(workload, cluster, report.best)
    return report


def _check(shared: SharedCosts, memory_ratio: float, plans: Sequence[Plan]) -> list[Trial]:
    """The verdicts on plans that share their lists."""
    return [shared.judge(plan, memory_ratio) for plan in plans]


def _cost(shared: SharedCosts, kernel: Kernel, trials: Sequence[Trial]) -> list[Trial]:
    """The step times of possible candidates that share their lists."""
    return shared.timed(trials, kernel)


def _kernel(trials: Iterable[Trial]) -> Kernel:
    """What sweeps all of `trials` soonest."""
    counts = Counter(schedule_key(trial.plan) for trial in trials)
    return kernel_for(
        # F and B of every stage and micro-batch, or more where B is split.
        (2 * stages * chunks * micro_batches, count)
        for (_, stages, chunks, micro_batches), count in counts.items()
    )


def confirm(workload: Workload, cluster: Cluster, best: Trial | None) -> None:
    """Play the choice in the simulator itself, which has to agree."""
    if best is not None:
        step_s = predict(compile_plan(workload, cluster, best.plan)).step_s
        if step_s != best.step_s:
            raise AssertionError(f"{best.plan}: {step_s} s simulated, {best.step_s} s evaluated")


def _in_groups(
    spread: WorkerPool,
    function: Callable[[Sequence[Item]], list[Trial]],
    items: Sequence[tuple[int, Item]],
    key: Callable[[Item], object],
    what: str,
    progress: Progress,
    trials: dict[int, Trial],
    keep: Callable[[Trial], None],
) -> None:
    """`function` of the items with equal keys together; its results go under the items' numbers."""
    groups: dict[object, list[tuple[int, Item]]] = {}
    for number, item in items:
        groups.setdefault(key(item), []).append((number, item))
    results = spread.in_order(function, [[item for _, item in group] for group in groups.values()])
    done = 0
    for group, result in zip(groups.values(), results, strict=True):
        for (number, _), trial in zip(group, result, strict=True):
            trials[number] = trial
            if trial.step_s is not None or not trial.fits:
                keep(trial)
            done += 1
            progress(what, done, len(items))
