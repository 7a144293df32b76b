"""Exhaustive search: compile every candidate, keep what fits in memory, simulate the rest.

The steps and their order are those of Advanced Parallelization.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from parplan.hardware.cluster import Cluster
from parplan.planners.search import Trial, best_trial, judge
from parplan.sim.plan import Plan
from parplan.sim.predict import compile_plan, predict
from parplan.sim.workload import Workload

POOL_FROM = 400
"""Fewer candidates are done before worker processes have started."""

CHUNK = 16
"""Candidates that a worker process takes at a time."""

Result = TypeVar("Result")
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

    @property
    def num_possible(self) -> int:
        """Candidates that fit in memory."""
        return sum(trial.fits for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The fastest possible candidate, the first of equals; None if nothing fits."""
        return best_trial(self.trials)

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
) -> Report:
    """Try every candidate, on at most `workers` processes.

    `memory_ratio`: the share of each device's memory that a plan may use.
    """
    check = partial(judge, workload, cluster, memory_ratio)
    cost = partial(_cost, workload, cluster)
    with _mapper(workers if len(candidates) >= POOL_FROM else 1) as run:
        start = time.perf_counter()
        checked = run(check, candidates)
        trials = list(_collect("compile", checked, len(candidates), progress))
        compiled = time.perf_counter()
        possible = [i for i, trial in enumerate(trials) if trial.fits]
        costed = run(cost, [trials[i] for i in possible])
        for i, trial in zip(
            possible, _collect("simulate", costed, len(possible), progress), strict=True
        ):
            trials[i] = trial
        done = time.perf_counter()
    return Report(trials=tuple(trials), compile_s=compiled - start, cost_s=done - compiled)


def _cost(workload: Workload, cluster: Cluster, trial: Trial) -> Trial:
    # Compiled anew: that takes less time than handing the lists from process to process.
    step_s = predict(compile_plan(workload, cluster, trial.plan)).step_s
    return replace(trial, step_s=step_s)


def _collect(
    what: str, results: Iterable[Result], total: int, progress: Progress
) -> Iterator[Result]:
    for done, result in enumerate(results, start=1):
        yield result
        progress(what, done, total)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, or the same over so many worker processes."""
    if workers == 1:
        yield map
        return
    # Spawned workers inherit neither locks nor threads of this process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, os.cpu_count() or 1),
        mp_context=context,
        # An interrupt ends this process, which then ends its workers.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        try:
            yield partial(pool.map, chunksize=CHUNK)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
