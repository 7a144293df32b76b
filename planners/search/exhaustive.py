"""Exhaustive search: compile every candidate, keep what fits in memory, time the rest.

The steps and their order are those of Advanced Parallelization. Candidates that share their lists
are taken together, so that the lists are made once, and are timed by the fast evaluator. The
choice is then simulated by the engine, which has to agree to the picosecond. More candidates than
memory holds are tried one part after the other, and the trials held that the answer needs.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from typing import TypeVar

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME, Goal
from parplan.planners.costs.plan_costs import PlanCosts, by_lists
from parplan.planners.costs.trial import Trial
from parplan.planners.search.kept_trials import KeptTrials, Numbered, PartResult
from parplan.planners.search.report import Progress, Report, confirm, no_progress
from parplan.planners.search.workers import WorkerPool
from parplan.sim.fast.fast import Kernel, kernel_for
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import schedule_key
from parplan.sim.workload import Workload

Item = TypeVar("Item")

PART = 4096
"""Candidates of a part: what an end by force may cost each worker."""

HELD = 10_000
"""Best candidates whose trials are held, where not all are."""


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
    """Try every candidate by the model of `workload` on `cluster`; the rest as `try_all` has it."""
    return try_all(
        SharedCosts(workload, cluster),
        candidates,
        memory_ratio=memory_ratio,
        workers=workers,
        progress=progress,
        goal=goal,
        known=known,
        keep=keep,
        executor=executor,
    )


def try_all(
    costs: PlanCosts,
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
    """Try every candidate by `costs`, on at most `workers` processes, or on `executor`.

    `memory_ratio`: the share of each device's memory that a plan may use. `known`: trials of an
    interrupted search for the same. `keep`: called with each trial when nothing more is to be found
    out about it. An interrupt keeps the candidates that were tried.
    """
    check = partial(_check, costs, memory_ratio)
    done_before = {trial.plan: trial for trial in known}
    trials = {i: done_before[plan] for i, plan in enumerate(candidates) if plan in done_before}
    start = compiled = time.perf_counter()
    stopped = "finished"
    try:
        with WorkerPool(workers, executor) as spread:
            new = [(i, plan) for i, plan in enumerate(candidates) if i not in trials]
            _in_groups(spread, check, new, lambda plan: plan, "compile", progress, trials, keep)
            compiled = time.perf_counter()
            possible = [(i, t) for i, t in sorted(trials.items()) if t.fits and t.step_s is None]
            cost = partial(_cost, costs, _kernel(trial for _, trial in possible))
            _in_groups(
                *(spread, cost, possible, lambda trial: trial.plan, "simulate"),
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
    confirm(costs, report.best)
    return report


def exhaustive_in_parts(
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
    """Try every candidate, as `exhaustive` does, in bounded memory: one part after the other.

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
    costs = SharedCosts(workload, cluster)
    try:
        evaluated = partial(_evaluated, costs, memory_ratio)
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
    confirm(costs, report.best)
    return report


def _check(costs: PlanCosts, memory_ratio: float, plans: Sequence[Plan]) -> list[Trial]:
    """The verdicts on plans that share their lists."""
    return [costs.judge(plan, memory_ratio) for plan in plans]


def _cost(costs: PlanCosts, kernel: Kernel, trials: Sequence[Trial]) -> list[Trial]:
    """The step times of possible candidates that share their lists."""
    return costs.timed(trials, kernel)


def _kernel(trials: Iterable[Trial]) -> Kernel:
    """The fastest evaluator for all of `trials`."""
    counts = Counter(schedule_key(trial.plan) for trial in trials)
    return kernel_for(
        # F and B of every stage and micro-batch, or more where B is split.
        (2 * stages * chunks * micro_batches, count)
        for (_, stages, chunks, micro_batches), count in counts.items()
    )


def _in_groups(
    spread: WorkerPool,
    function: Callable[[Sequence[Item]], list[Trial]],
    items: Sequence[tuple[int, Item]],
    plan_of: Callable[[Item], Plan],
    what: str,
    progress: Progress,
    trials: dict[int, Trial],
    keep: Callable[[Trial], None],
) -> None:
    """`function` of items whose plans share their lists; the results go under the numbers."""
    groups = by_lists(items, lambda item: plan_of(item[1]))
    results = spread.in_order(function, [[item for _, item in group] for group in groups])
    done = 0
    for group, result in zip(groups, results, strict=True):
        for (number, _), trial in zip(group, result, strict=True):
            trials[number] = trial
            if trial.step_s is not None or not trial.fits:
                keep(trial)
            done += 1
            progress(what, done, len(items))


Wanted = tuple[Plan, str]
"""A candidate, and why it is not wanted."""


def _parts(
    candidates: Sequence[Plan], first: int, why_not: Callable[[Plan], str] | None
) -> Iterator[list[Wanted]]:
    """The candidates that are left, none made before it is asked for."""
    for begin in range(first * PART, len(candidates), PART):
        plans = (candidates[i] for i in range(begin, min(begin + PART, len(candidates))))
        yield [(plan, why_not(plan) if why_not else "") for plan in plans]


def _evaluated(costs: PlanCosts, memory_ratio: float, wanted: Iterable[Wanted]) -> list[Trial]:
    wanted = list(wanted)
    found = iter(costs.evaluated(memory_ratio, [plan for plan, reason in wanted if not reason]))
    return [Trial(plan=plan, reason=reason) if reason else next(found) for plan, reason in wanted]
