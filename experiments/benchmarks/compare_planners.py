"""Planners on the same space with the same budget: how far each stays from the proven optimum."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from statistics import median

from parplan.planners.search.evaluator import Budget
from parplan.planners.search.run import SearchReport, run_planner
from parplan.planners.search.workers import WorkerPool
from parplan.planners.spaces.space import Space

NEAR = 0.01
"""Regret that counts as having found it."""

Axis = Callable[[SearchReport], list[tuple[float, float]]]
"""(where, step time from there on) of every improvement of a search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The searches of several planners, and the step time that none can beat."""

    optimum_s: float
    reports: tuple[SearchReport, ...]

    @property
    def planners(self) -> list[str]:
        """The names of the planners, in order."""
        return list(dict.fromkeys(report.planner for report in self.reports))

    def of(self, planner: str) -> list[SearchReport]:
        """The searches of one planner, one for each seed."""
        return [report for report in self.reports if report.planner == planner]

    def regret(self, report: SearchReport) -> float:
        """Excess of its best plan over the optimum, as a share; infinite where it found no plan."""
        return self.regret_of(report.best.step_s if report.best else None)

    def regret_of(self, step_s: float | None) -> float:
        """The same of a step time."""
        return float("inf") if step_s is None else step_s / self.optimum_s - 1


def compare(
    space: Space,
    planners: Sequence[str],
    budget: Budget,
    seeds: Sequence[int],
    progress: Callable[[str, int, int], None],
    workers: int = 1,
    executor: Executor | None = None,
) -> Comparison | None:
    """Prove the optimum, then run every planner with every seed; None if no plan fits.

    `workers`, `executor`: where the searches run, as
    `parplan.planners.search.workers.WorkerPool` has it;
    each is on one process, so that its times are those of one.
    """
    best = run_planner("branch-and-bound", space).whole().best
    if best is None or best.step_s is None:
        return None
    reports: list[SearchReport] = []
    asked = [(planner, seed) for planner in planners for seed in seeds]
    with WorkerPool(workers, executor) as spread:
        for report in spread.in_order(partial(_search, space, budget), asked):
            reports.append(report)
            progress("searches", len(reports), len(asked))
    return Comparison(optimum_s=best.step_s, reports=tuple(reports))


def _search(space: Space, budget: Budget, asked: tuple[str, int]) -> SearchReport:
    planner, seed = asked
    report = run_planner(planner, space, budget=budget, seed=seed)
    if report.stopped == "interrupted":
        raise KeyboardInterrupt
    return report


def evaluations_until_near(comparison: Comparison, report: SearchReport) -> float:
    """Evaluations after which the regret was at most `NEAR`; infinite where it never was."""
    for step in report.improvements:
        if comparison.regret_of(step.step_s) <= NEAR:
            return step.evaluations
    return float("inf")


def table(comparison: Comparison) -> Iterator[str]:
    """A line for each planner: medians over the seeds, the worst regret, and whether proven."""
    yield (
        f"{'planner':18}{'regret':>9}{'worst':>9}{'evaluations':>13}"
        f"{'to within 1%':>14}{'bounds':>8}{'seconds':>9}  proven"
    )
    for planner in comparison.planners:
        own = comparison.of(planner)
        regrets = [comparison.regret(report) for report in own]
        near = median(evaluations_until_near(comparison, report) for report in own)
        proven = sum(report.proven for report in own)
        yield (
            f"{planner:18}{_percent(median(regrets)):>9}{_percent(max(regrets)):>9}"
            f"{median(r.num_asked for r in own):>13.0f}{_count(near):>14}"
            f"{median(r.num_bounds for r in own):>8.0f}{median(r.seconds for r in own):>9.2f}"
            f"  {proven} of {len(own)}"
        )


def _percent(value: float) -> str:
    return "none" if value == float("inf") else f"{value:.1%}"


def _count(value: float) -> str:
    return "-" if value == float("inf") else f"{value:.0f}"


def rows(comparison: Comparison) -> list[dict[str, object]]:
    """A row for every improvement of every search."""
    return [
        {
            "planner": report.planner,
            "seed": report.seed,
            "evaluations": step.evaluations,
            "seconds": step.seconds,
            "step_s": step.step_s,
            "regret": comparison.regret_of(step.step_s),
        }
        for report in comparison.reports
        for step in report.improvements
    ]
