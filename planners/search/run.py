"""Lookup and execution of planners."""

import importlib
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import entry_points
from random import Random
from typing import Any

from parplan.errors import ParplanError, RunFailedError, short, unknown_name
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME, Goal
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Budget, Clock, Evaluator, Improvement, Stopped
from parplan.planners.search.limits import MOST_RECORDED, check_record
from parplan.planners.search.report import Report, confirm
from parplan.planners.search.workers import WorkerPool
from parplan.planners.spaces.space import Space

GROUP = "parplan.planners"
"""The group of entry points in which packages offer planners."""

BUILT_IN = {
    "exhaustive": "parplan.planners.algorithms.exact.all_plans:all_plans",
    "branch-and-bound": "parplan.planners.algorithms.exact.branch_and_bound:branch_and_bound",
    "random": "parplan.planners.algorithms.heuristic.random_search:random_search",
    "grid": "parplan.planners.algorithms.heuristic.grid:grid",
    "annealing": "parplan.planners.algorithms.heuristic.annealing:annealing",
    "evolution": "parplan.planners.algorithms.heuristic.evolution:evolution",
    "mcmc": "parplan.planners.algorithms.heuristic.mcmc:mcmc",
    "beam": "parplan.planners.algorithms.heuristic.beam:beam",
    "nsga2": "parplan.planners.algorithms.heuristic.nsga2:nsga2",
    "bayesian": "parplan.planners.algorithms.heuristic.bayesian:bayesian",
    "tpe": "parplan.planners.algorithms.heuristic.tpe:tpe",
    "as-ap": "parplan.planners.algorithms.heuristic.as_ap:as_ap",
    "dynamic-programming": (
        "parplan.planners.algorithms.exact.dynamic_programming:dynamic_programming"
    ),
    "integer-program": "parplan.planners.algorithms.exact.integer_program:integer_program",
    "pareto-front": "parplan.planners.algorithms.exact.pareto_front:pareto_front",
}

ONE_BY_ONE = (
    *("branch-and-bound", "annealing", "mcmc", "dynamic-programming", "integer-program"),
    *("pareto-front", "tpe"),
)
"""Those that ask about one plan after the other, so that there is nothing to spread."""

UNEVEN = 50
"""Evaluations for each plan of a space that has uneven plans beside it."""

Planner = Callable[[Space, Evaluator, Random], None]
"""(space, evaluate, rng): asks `evaluate` about plans of `space`, by chance from `rng` alone."""

_REGISTERED: dict[str, Planner] = {}


def register_planner(name: str, planner: Planner | None = None) -> Any:
    """Give a planner a name in this process; without `planner`, a decorator of one.

    Packages name theirs by an entry point in the group `parplan.planners` instead, which the
    command line finds too. Raises `ParplanError` for a name that is taken, or that is no name.
    """
    if planner is None:
        return partial(register_planner, name)
    if not isinstance(name, str) or not name or ":" in name:
        raise ParplanError(f"planner: expected a name without a colon, got {short(name)}")
    if not callable(planner):
        raise ParplanError(f"planner {name}: expected a function, got {short(planner)}")
    if name in planner_names() and _REGISTERED.get(name) is not planner:
        raise ParplanError(f"planner {name}: there is one of this name already")
    _REGISTERED[name] = planner
    return planner


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport(Report):
    """The result of a planner; its trials are in the order of the first request for each."""

    planner: str
    seed: int
    space_size: int
    num_asked: int
    """Plans asked about, repeated ones too."""
    num_bounds: int
    """Plans of which it asked a bound."""
    seconds: float
    proven: bool
    """Whether no plan of the space is better: each was tried, cannot fit, or has a bound that is
    not below the best."""
    gap: float | None
    """At most such a share of the best key (step time, or memory) can still be saved; None where
    that was not asked for, or nothing fits."""
    improvements: tuple[Improvement, ...]
    space: Space
    """What was searched."""
    untried_from: float = 0.0
    """No plan that was not tried has a lower key; 0: nothing is known of them."""
    cell_lower_bounds: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """Seconds that a step takes at least, by (pipeline stages, micro-batch size), of plans that
    were bounded; infinite where none fits. Empty for a search without bounds."""

    @property
    def tried_all(self) -> bool:
        """Whether every plan of the space was tried."""
        return len(self.trials) >= self.space_size and not self.space.constraints.is_uneven

    @property
    def untried_s(self) -> float:
        """As that of a `Report`, as far as bounds say; 0: nothing is known."""
        if self.tried_all:
            return math.inf
        return self.untried_from if self.goal.bounded_by == "step" else 0.0

    @property
    def failed(self) -> bool:
        """Whether the planner made a mistake."""
        return self.stopped.startswith("failed")

    @property
    def _found_nothing(self) -> str:
        if self.proven:
            return super(SearchReport, self)._found_nothing
        return f"no candidate that fits was found ({self.stopped})"


def run_planner(
    planner: str | Planner,
    space: Space,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    memory_ratio: float | None = None,
    clock: Clock = time.perf_counter,
    shared: SharedCosts | None = None,
    goal: Goal = STEP_TIME,
    known: Iterable[Trial] = (),
    watch: Callable[[Evaluator], None] | None = None,
    with_gap: bool = False,
    workers: int = 1,
    executor: Executor | None = None,
) -> SearchReport:
    """Let a planner (a name, `module:function`, or a function) search `space`.

    `budget`: as many evaluations as the space has plans, if None; more of them where it has uneven
    ones, which are not counted. `memory_ratio`: that of the
    space's constraints, if None. A planner that raises, or asks nothing, is reported as failed;
    an interrupt keeps what was found. `shared`: costs that earlier searches for the same workload
    and cluster found, and that this one adds to. `known`: trials of an interrupted search, which
    this one then takes up: it asks the same again, and gets these answers at once. `watch`: called
    after every ask. `with_gap`: bound the whole space afterwards where the planner did not.
    `workers`, `executor`: where the plans that are asked about together are evaluated, as in
    `parplan.planners.search.workers.WorkerPool`; what is found is the same.
    Raises `ParplanError` for a planner that is not known, or for more evaluations than a record
    may have, and `RunFailedError` where workers are lost.
    """
    function = find_planner(planner) if isinstance(planner, str) else planner
    check_record(planner if isinstance(planner, str) else _name(planner), space, budget)
    spread = WorkerPool(workers, executor)
    costs = SharedCosts(space.workload, space.cluster) if shared is None else shared
    evaluator = Evaluator(
        space.workload,
        space.cluster,
        memory_ratio=space.constraints.memory_ratio if memory_ratio is None else memory_ratio,
        budget=_limited(_as_many(space) if budget is None else budget),
        space=space,
        clock=clock,
        shared=costs,
        goal=goal,
        known=known,
        watch=None if watch is None else partial(_watched, watch),
        spread=None if workers == 1 and executor is None else spread,
    )
    with spread:
        stopped = _run(function, space, evaluator, seed)
        spread.close(at_once=stopped != "finished")
    seconds = evaluator.seconds
    if evaluator.num_asked == 0 and stopped == "finished":
        stopped = "failed: it asked about no plan"
    best = goal.best(evaluator.trials)
    key = goal.key(best) if best else float("inf")
    confirm(costs, best)
    bounds = evaluator.num_bounds
    least = evaluator.least_key(evaluator.budget.near) if with_gap and best else 0.0
    return SearchReport(
        trials=evaluator.trials,
        compile_s=evaluator.compile_s,
        cost_s=evaluator.cost_s,
        planner=planner if isinstance(planner, str) else _name(planner),
        seed=seed,
        space_size=len(space),
        num_asked=evaluator.num_asked,
        num_bounds=bounds,
        seconds=seconds,
        stopped=stopped,
        proven=evaluator.proves(key),
        gap=max(0.0, 1 - least / key) if least else None,
        goal=goal,
        improvements=tuple(evaluator.improvements),
        space=space,
        untried_from=least,
        cell_lower_bounds=evaluator.layouts.cell_lower_bounds() if bounds else {},
    )


def _as_many(space: Space) -> Budget:
    return Budget(evaluations=len(space) * (UNEVEN if space.constraints.is_uneven else 1))


def _limited(budget: Budget) -> Budget:
    """Cap the number of evaluations at what a record may hold."""
    return replace(budget, evaluations=min(budget.evaluations or MOST_RECORDED, MOST_RECORDED))


class _WatchError(BaseException):
    """What watches a search failed, as a full disk does: no mistake of the planner."""

    def __init__(self, error: ParplanError) -> None:
        super().__init__(str(error))
        self.error = error


def _watched(watch: Callable[[Evaluator], None], evaluator: Evaluator) -> None:
    try:
        watch(evaluator)
    except ParplanError as error:
        raise _WatchError(error) from error


def _run(function: Planner, space: Space, evaluator: Evaluator, seed: int) -> str:
    try:
        function(space, evaluator, Random(seed))
    except Stopped:
        return "budget used up"
    except KeyboardInterrupt:
        return "interrupted"
    except RunFailedError:
        raise  # Workers were lost: no mistake of the planner.
    except _WatchError as failed:
        raise failed.error from None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"failed: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
    return "finished"


def _name(planner: Planner) -> str:
    return str(getattr(planner, "__name__", planner))


def planner_names() -> list[str]:
    """The planners that are installed: parplan's own, then those of other packages."""
    others = {point.name for point in entry_points(group=GROUP)} - set(BUILT_IN)
    return [*BUILT_IN, *sorted(others | _REGISTERED.keys())]


def find_planner(name: str) -> Planner:
    """The planner of a name, an entry point, or `module:function`.

    Entry points are of the group `parplan.planners`. Raises `ParplanError` when there is none, or
    when it cannot be imported.
    """
    if not isinstance(name, str):
        raise ParplanError(f"planner: expected a name, got {short(name)}")
    if name in _REGISTERED:
        return _REGISTERED[name]
    target = BUILT_IN.get(name, name)
    if ":" not in target:
        found = [point.value for point in entry_points(group=GROUP) if point.name == name]
        if not found:
            raise unknown_name("planner", name, planner_names())
        target = found[0]
    module, _, attribute = target.partition(":")
    try:
        planner = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise ParplanError(
            f"planner {name[:200]}: cannot be imported: {str(error)[:500]}"
        ) from None
    if not callable(planner):
        raise ParplanError(f"planner {name}: expected a function, got {short(planner)}")
    return planner  # type: ignore[no-any-return]
