"""The evaluator: enforces the budget, caches results and records every trial."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.bounds.bounds_by_layout import BoundsByLayout
from parplan.planners.bounds.box_bounds import box_lower_bounds
from parplan.planners.bounds.group_bounds import group_bounds
from parplan.planners.bounds.untried_bound import Tried, least_open, nothing_open
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import IMPOSSIBLE, STEP_TIME, Goal
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.costs.plan_costs import by_lists
from parplan.planners.costs.trial import Trial
from parplan.planners.search.budget import Budget, Clock, Improvement, Stopped, budget_of
from parplan.planners.search.leanest import leanest_plan
from parplan.planners.search.remote import evaluated_remotely
from parplan.planners.search.workers import WorkerPool
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.variants import Box
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import schedule_key
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload

__all__ = ["IMPOSSIBLE", "Budget", "Clock", "Evaluator", "Improvement", "Stopped", "budget_of"]


class Evaluator:
    """Called with a plan, it returns the `Trial`; with `many`, those of several, faster.

    Every ask counts. A plan that is asked about again gets the same answer from memory. When the
    budget is used up, an ask ends the planner.
    """

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        *,
        memory_ratio: float = 0.8,
        budget: Budget | None = None,
        space: Container[Plan] | None = None,
        clock: Clock = time.perf_counter,
        shared: SharedCosts | None = None,
        goal: Goal = STEP_TIME,
        known: Iterable[Trial] = (),
        watch: Callable[["Evaluator"], None] | None = None,
        spread: WorkerPool | None = None,
    ) -> None:
        """`space`: what plans have to be in to be possible; None: any that can be laid out.

        `shared`: of an earlier search for the same workload on the same cluster, whose costs and
        lists are then known. `known`: trials of an interrupted search for the same workload,
        cluster and memory; asks about them count, but take no time. `watch`: called after asks.
        `spread`: where plans that are asked about together are evaluated; None: here.
        Raises `ParplanError` where `shared` is of another search.
        """
        self.budget = Budget() if budget is None else budget
        self.num_asked = self.num_bounds = 0
        self.compile_s = self.cost_s = 0.0
        self.improvements: list[Improvement] = []
        self.goal = goal
        self._watch = watch
        self._spread = spread
        self._known = {trial.plan: trial for trial in known}
        self._shared = SharedCosts(workload, cluster) if shared is None else shared
        self._shared.check(workload, cluster)
        self._cluster = cluster
        self._memory_ratio = memory_ratio
        self._space = space
        self._clock = clock
        self._begin_s = clock()
        self._trials: dict[Plan, Trial] = {}
        self._verdicts: dict[Plan, Trial] = {}
        self._bounds: dict[Plan, float] = {}
        self._table: BoundsByLayout | None = None
        self._space_memory = np.empty(0)
        self._box_lower_bounds: dict[tuple[int, Box], float] = {}
        self._uneven: npt.NDArray[np.float64] | None = None

    def __call__(self, plan: Plan) -> Trial:
        """Whether a plan fits and how long its step takes."""
        return self.many([plan])[0]

    def many(self, plans: Iterable[Plan]) -> list[Trial]:
        """The trials of `plans`, in their order. All count, even those that are there twice.

        When the budget allows for some of them only, these are evaluated before it ends.
        """
        left = self.evaluations_left
        asked = list(plans if left is None else islice(plans, left + 1))
        allowed = asked if left is None else asked[:left]
        self._check_time()
        new = [plan for plan in dict.fromkeys(allowed) if plan not in self._trials]
        done: dict[Plan, Trial] = {}
        try:
            self._evaluate(new, done)
        finally:
            self._record(allowed, done)
        if len(allowed) < len(asked):
            raise Stopped
        return [self._trials[plan] for plan in asked]

    def energy(self, trial: Trial) -> float:
        """Energy of a plan by the goal of the search (`Goal.energy`)."""
        return self.goal.energy(trial)

    def fits(self, plan: Plan) -> bool:
        """Whether a plan is possible. Takes time, but no evaluation."""
        self._check_time()
        return self._verdict(plan).fits

    def peak_bytes(self, plan: Plan) -> float:
        """Memory of the fullest rank; infinite for no layout. Takes time, but no evaluation."""
        self._check_time()
        return max(self._verdict(plan).memory_bytes, default=IMPOSSIBLE)

    def bounds(self, plans: Sequence[Plan]) -> list[float]:
        """Seconds that a step of each plan takes at least; infinite for those that cannot fit.

        Never above the exact step time (`parplan.planners.bounds.schedule_bounds`), and cheaper
        than it: a bound takes time, but no evaluation.
        """
        groups: dict[tuple[object, ...], list[Plan]] = {}
        for plan in dict.fromkeys(plans):
            if plan not in self._bounds:
                kind = schedule_kind(plan.schedule)
                looks = kind.placement, kind.splits_backward, kind.overlaps
                key = *looks, plan.num_stages, plan.virtual_stages
                groups.setdefault(key, []).append(plan)
        for group in groups.values():
            self._check_time()
            self.num_bounds += len(group)
            limit = self.memory_limit_bytes
            self._bounds.update(group_bounds(self._shared, group, limit, self._why_not))
        return [self._bounds[plan] for plan in plans]

    def space_bounds(self) -> npt.NDArray[np.float64]:
        """`bounds` of all plans of the space, in its order, shape [plans]: far cheaper than theirs.

        Those that `rule_out_alike` finds not to fit become infinite in it. Raises `ParplanError`
        where the plans come from no `Space`.
        """
        if not self.layouts.all_opened:
            self._check_time()
        return self._bounds_of_all()

    def space_memory(self) -> npt.NDArray[np.float64]:
        """Lower bounds on the bytes of the fullest rank of each plan of the space, shape [plans].

        Infinite for those that cannot fit. Raises `ParplanError` as `space_bounds` does.
        """
        if not len(self._space_memory):
            self._check_time()
        return self._memory_of_all()

    def space_lower_bounds(self) -> npt.NDArray[np.float64]:
        """Lower bounds of the goal, as `space_bounds`; infinite where a plan cannot fit."""
        return self.space_memory() if self.goal.bounded_by == "memory" else self.space_bounds()

    def box_lower_bounds(self, row: int, boxes: Sequence[Box]) -> list[float]:
        """Lower bounds of the goal over the variants of a row of the space, for boxes of variants.

        Infinite for a box of which none fits. Takes time, but no evaluation.
        """
        self._check_time()
        if not isinstance(self._space, Space):
            raise ParplanError("box_lower_bounds: the evaluator was made without a Space")
        parts, plan = self._shared.parts_of(self._space.constraints), self._space.row(row)
        assert isinstance(parts, RelaxedParts)
        self.num_bounds += len(boxes)
        own = parts, plan, boxes, self._shared.moments(plan), self.memory_limit_bytes
        found = box_lower_bounds(*own, bounded_by=self.goal.bounded_by)
        self._box_lower_bounds.update(((row, b), f) for b, f in zip(boxes, found, strict=True))
        return found

    def leanest(self) -> Plan:
        """The plan that comes closest to fitting, to ask about where nothing fits."""
        self.space_bounds()
        return leanest_plan(self.layouts.space, self.layouts.memory_bytes(), self.peak_bytes)

    def uneven_lower_bounds(self) -> npt.NDArray[np.float64]:
        """Lower bounds of the goal of each row with uneven stages, where the space has them.

        Infinite for those that cannot fit. Raises `ParplanError` as `space_bounds` does.
        """
        if not isinstance(self._space, Space) or not self._space.constraints.is_uneven:
            return self.space_lower_bounds()
        self.space_bounds()
        return self._uneven_of_all()

    @property
    def memory_limit_bytes(self) -> float:
        """Bytes that a plan may use of each device."""
        return self._memory_ratio * self._cluster.accelerator.memory_bytes

    def rule_out_alike(self, plan: Plan) -> None:
        """Find which of the plans of the space that share their lists with `plan` do not fit.

        Exact, as `fits` is; takes time, but no evaluation.
        """
        table, key = self.layouts, schedule_key(plan)
        if not table.num_opened:
            self.space_bounds()
        if table.is_judged(key):
            return
        self._check_time()
        begin = self._clock()
        table.rule_out(key, self._shared.moments(plan))
        if len(self._space_memory):
            self._space_memory[table.of_plans == IMPOSSIBLE] = IMPOSSIBLE
        self.compile_s += self._clock() - begin

    def proves(self, key: float) -> bool:
        """Whether it is known that no plan of the space is better than one with that key."""
        if not isinstance(self._space, Space):
            return False
        if self._table is None:
            return all(self.ruled_out(plan, key) for plan in self._space)
        if self._space.constraints.is_uneven:
            return False
        return nothing_open(self._tried(self._space), self._known_lower_bounds(), key)

    def least_key(self, near: float = 0.0) -> float:
        """The least lower bound of untried plans, if below the best key.

        Or below a key that is worse by a share of `near`; otherwise that key. 0: nothing is known.
        """
        best = self._best_key * (1 + near)
        if not isinstance(self._space, Space):
            return 0.0
        if self._space.constraints.is_uneven:
            # Which of the uneven plans of a row were tried does not matter: there are too many.
            return min(best, float(self._uneven_of_all().min()))
        return least_open(self._tried(self._space), self._known_lower_bounds(), best)

    @property
    def _best_key(self) -> float:
        return self.improvements[-1].key if self.improvements else IMPOSSIBLE

    def _tried(self, space: Space) -> Tried:
        return Tried(space, self._box_lower_bounds, self._trials, self.ruled_out)

    def open_layouts(self, numbers: Sequence[int], ceiling: float) -> list[tuple[float, int]]:
        """(bound, row) of plans of these layouts, the least first, tightened below `ceiling`."""
        self._check_time()
        self.num_bounds += sum(self.layouts.space.groups[number].size for number in numbers)
        rows = self.layouts.open(numbers, ceiling)
        return list(zip(self.layouts.of_plans[rows].tolist(), rows, strict=True))

    def _known_lower_bounds(self) -> npt.NDArray[np.float64]:
        """`space_lower_bounds` as far as known; all of them if no planner asked for any."""
        table = self.layouts
        if self.goal.bounded_by == "memory":
            return self._memory_of_all()
        return table.of_plans if table.num_opened else self._bounds_of_all()

    @property
    def layouts(self) -> BoundsByLayout:
        """The bounds of the space by layout, far cheaper than `space_bounds`; raises as that."""
        if self._table is None:
            if not isinstance(self._space, Space):
                raise ParplanError("space_bounds: the evaluator was made without a Space")
            parts = self._shared.parts_of(self._space.constraints)
            moments_of, ratio = self._shared.moments_of, self._memory_ratio
            self._table = BoundsByLayout(self._space, ratio, parts, moments_of)
        return self._table

    def _bounds_of_all(self) -> npt.NDArray[np.float64]:
        table = self.layouts
        self.num_bounds += table.open_all()
        return table.of_plans

    def _uneven_of_all(self) -> npt.NDArray[np.float64]:
        if self.goal.bounded_by == "memory":
            # Nothing is known of the memory of uneven stages.
            return np.zeros(self.layouts.space.num_rows)
        self._bounds_of_all()
        if self._uneven is None:
            self._uneven = self.layouts.uneven_bounds()
        return self._uneven

    def _memory_of_all(self) -> npt.NDArray[np.float64]:
        bounds = self._bounds_of_all()
        if not len(self._space_memory):
            found = self.layouts.memory_bytes()
            self._space_memory = np.where(bounds < IMPOSSIBLE, found, IMPOSSIBLE)
        return self._space_memory

    @property
    def evaluations_left(self) -> int | None:
        """The number of further plans that may be asked about; None: no limit."""
        return self.budget.left(self.num_asked)

    @property
    def share_used(self) -> float:
        """The used share of the budget, from 0 to 1; 0 without a budget."""
        return self.budget.share_used(self.num_asked, self.seconds)

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self._clock() - self._begin_s

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The record: every plan that was asked about, in the order of the first time."""
        return tuple(self._trials.values())

    def trials_since(self, number: int) -> Iterator[Trial]:
        """The record without its first `number` plans."""
        later = len(self._trials) - number
        return reversed(list(islice(reversed(self._trials.values()), later)))

    def ruled_out(self, plan: Plan, key: float) -> bool:
        """Whether it is known that `plan` is not better than `key`, or that it cannot be."""
        trial = self._trials.get(plan) or self._verdicts.get(plan)
        if self._why_not(plan) if trial is None else not trial.fits:
            return True
        if trial is not None and trial.step_s is not None and self.goal.key(trial) >= key:
            return True
        return self.goal.bounded_by == "step" and self._bounds.get(plan, 0.0) >= key

    def _check_time(self) -> None:
        seconds = self.budget.seconds
        if (seconds is not None and self.seconds >= seconds) or self.evaluations_left == 0:
            raise Stopped

    def _verdict(self, plan: Plan) -> Trial:
        self._check_type(plan)
        if plan not in self._verdicts:
            begin = self._clock()
            self._verdicts[plan] = self._judge(plan)
            self.compile_s += self._clock() - begin
        return self._verdicts[plan]

    def _why_not(self, plan: Plan) -> str:
        """The reason why the space does not contain a plan; empty if it does."""
        if self._space is not None and plan not in self._space:
            return "not a plan of the space that is searched"
        if isinstance(self._space, Space) and self._space.why_not is not None:
            return self._space.why_not(plan)
        return ""

    def _judge(self, plan: Plan) -> Trial:
        if reason := self._why_not(plan):
            return Trial(plan=plan, reason=reason)
        return self._shared.judge(plan, self._memory_ratio)

    def _evaluate(self, plans: Sequence[Plan], done: dict[Plan, Trial]) -> None:
        """Fill `done`, plans that share their lists together."""
        for plan in plans:
            self._check_type(plan)
            if plan in self._known:
                done[plan] = self._known[plan]
        groups = by_lists((plan for plan in plans if plan not in done), lambda plan: plan)
        if self._spread is not None and sum(map(len, groups)) > 1:
            self._evaluate_remotely(self._spread, groups, done)
            return
        for group in groups:
            self._check_time()
            trials = [self._verdict(plan) for plan in group]
            begin = self._clock()
            possible = [trial for trial in trials if trial.fits]
            done.update((t.plan, t) for t in trials if not t.fits)
            if possible:
                done.update((t.plan, t) for t in self._shared.timed(possible))
            self.cost_s += self._clock() - begin

    def _evaluate_remotely(
        self, spread: WorkerPool, groups: Sequence[list[Plan]], done: dict[Plan, Trial]
    ) -> None:
        """Fill `done` with what others find of the plans that the space offers."""
        for plan in (plan for group in groups for plan in group):
            if reason := self._why_not(plan):
                done[plan] = self._verdicts[plan] = Trial(plan=plan, reason=reason)
        new = [[plan for plan in group if plan not in done] for group in groups]
        found = evaluated_remotely(spread, self._shared, self._memory_ratio, new)
        begin = self._clock()
        try:
            with closing(found):
                for trials in found:
                    self._verdicts.update((t.plan, replace(t, step_s=None)) for t in trials)
                    done.update((trial.plan, trial) for trial in trials)
                    self._check_time()
        finally:
            self.cost_s += self._clock() - begin

    @staticmethod
    def _check_type(plan: object) -> None:
        if not isinstance(plan, Plan):
            raise ParplanError(f"evaluate: expected a Plan, got {plan!r}")

    def _record(self, asked: Sequence[Plan], done: dict[Plan, Trial]) -> None:
        for plan in asked:
            trial = self._trials.get(plan) or done.get(plan)
            if trial is not None:
                self.num_asked += 1
                self._trials.setdefault(plan, trial)
                self._improve(trial)
        if self._watch is not None:
            self._watch(self)

    def _improve(self, trial: Trial) -> None:
        best, step_s = self._best_key, trial.step_s
        if step_s is None or (self.goal.bounded_by == "step" and step_s >= best):
            return
        key, asked = self.goal.key(trial), self.num_asked
        if key < best:
            found = Improvement(evaluations=asked, seconds=self.seconds, step_s=step_s, key=key)
            self.improvements.append(found)
