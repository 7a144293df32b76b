"""What a planner asks: it counts, remembers and stops, so that no planner can misreport."""

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parplan.hardware.cluster import Cluster
from parplan.hardware.errors import ParplanError
from parplan.planners.bound import memory_bound_bytes, step_bounds_s
from parplan.planners.search import Trial
from parplan.planners.shared_costs import SharedCosts
from parplan.planners.space import Space
from parplan.planners.space_table import SpaceTable
from parplan.sim.plan import Plan
from parplan.sim.predict import schedule_key
from parplan.sim.schedules import schedule_kind
from parplan.sim.ticks import stage_ticks
from parplan.sim.workload import Workload

IMPOSSIBLE = float("inf")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a planner may ask; None: as much as it wants."""

    evaluations: int | None = None
    """Plans asked about, also those that were asked about before."""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise ParplanError(f"budget: at least 1 evaluation, got {self.evaluations}")
        if self.seconds is not None and not self.seconds > 0:
            raise ParplanError(f"budget: more than 0 seconds, got {self.seconds}")


def budget_of(text: str) -> Budget:
    """The budget that `500` (evaluations) or `30s` (seconds) says; raises `ParplanError` else."""
    try:
        if text.endswith("s"):
            return Budget(seconds=float(text[:-1]))
        return Budget(evaluations=int(text))
    except ValueError:
        raise ParplanError(
            f"budget: expected evaluations, as in 500, or seconds, as in 30s; got {text!r}"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """When a plan better than all before it was found."""

    evaluations: int
    seconds: float
    step_s: float


class Stopped(BaseException):
    """The budget is used up. Nothing for a planner to catch: the runner does."""


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
    ) -> None:
        """`space`: what plans have to be in to be possible; None: any that can be laid out.

        `shared`: of an earlier search for the same workload on the same cluster, whose costs and
        lists are then known. Raises `ParplanError` where it is of another.
        """
        self.budget = Budget() if budget is None else budget
        self.num_asked = 0
        self.num_bounds = 0
        self.compile_s = 0.0
        self.cost_s = 0.0
        self.improvements: list[Improvement] = []
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
        self._table: SpaceTable | None = None
        self._space_bounds = np.empty(0)
        self._judged: set[tuple[str, int, int, int]] = set()

    def __call__(self, plan: Plan) -> Trial:
        """Whether a plan fits and how long its step takes."""
        return self.many([plan])[0]

    def many(self, plans: Iterable[Plan]) -> list[Trial]:
        """The trials of `plans`, in their order. All count, even those that are there twice.

        When the budget allows for some of them only, these are evaluated before it ends.
        """
        asked = list(plans)
        left = self.evaluations_left
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

    def fits(self, plan: Plan) -> bool:
        """Whether a plan is possible. Takes time, but no evaluation."""
        self._check_time()
        return self._verdict(plan).fits

    def bounds(self, plans: Sequence[Plan]) -> list[float]:
        """Seconds that a step of each plan takes at least; infinite for those that cannot fit.

        Never above the exact step time (`parplan.planners.bound`), and cheaper than it: a bound
        takes time, but no evaluation.
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
            self._bound(group)
        return [self._bounds[plan] for plan in plans]

    def space_bounds(self) -> npt.NDArray[np.float64]:
        """`bounds` of all plans of the space, in its order, shape [plans]: far cheaper than theirs.

        Those that `rule_out_alike` finds not to fit become infinite in it. Raises `ParplanError`
        where the plans come from no `Space`.
        """
        if self._table is None:
            if not isinstance(self._space, Space):
                raise ParplanError("space_bounds: the evaluator was made without a Space")
            self._check_time()
            self._table = SpaceTable(self._space, self._memory_ratio, self._shared.parts)
            self._space_bounds = self._table.bounds()
            if self._space.why_not is not None:
                self._space_bounds[[bool(self._why_not(plan)) for plan in self._space]] = IMPOSSIBLE
            self.num_bounds += len(self._space_bounds)
        return self._space_bounds

    def rule_out_alike(self, plan: Plan) -> None:
        """Find which of the plans of the space that share their lists with `plan` do not fit.

        Exact, as `fits` is; takes time, but no evaluation.
        """
        bounds, key = self.space_bounds(), schedule_key(plan)
        if self._table is None or key in self._judged:
            return
        self._check_time()
        begin = self._clock()
        self._judged.add(key)
        self._table.rule_out(key, self._shared.moments(plan), bounds)
        self.compile_s += self._clock() - begin

    def proves(self, step_s: float) -> bool:
        """Whether it is known that no plan of the space has a step below `step_s`."""
        if not isinstance(self._space, Space):
            return False
        if self._table is None:
            return all(self.ruled_out(plan, step_s) for plan in self._space)
        possible = np.flatnonzero(self._space_bounds < step_s).tolist()
        return all(self.ruled_out(self._space[number], step_s) for number in possible)

    @property
    def evaluations_left(self) -> int | None:
        """How many more plans may be asked about; None: any number."""
        if self.budget.evaluations is None:
            return None
        return self.budget.evaluations - self.num_asked

    @property
    def share_used(self) -> float:
        """How much of the budget is used, from 0 to 1; 0 where there is none."""
        evaluations, seconds = self.budget.evaluations, self.budget.seconds
        used = self.num_asked / evaluations if evaluations else 0.0
        return min(1.0, max(used, self.seconds / seconds if seconds else 0.0))

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self._clock() - self._begin_s

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The record: every plan that was asked about, in the order of the first time."""
        return tuple(self._trials.values())

    def ruled_out(self, plan: Plan, step_s: float) -> bool:
        """Whether it is known that a step of `plan` takes at least `step_s`, or that it cannot."""
        trial = self._trials.get(plan) or self._verdicts.get(plan)
        if trial is not None and (not trial.fits or (trial.step_s or 0.0) >= step_s):
            return True
        return self._bounds.get(plan, 0.0) >= step_s

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
        """Why the space does not offer a plan; empty if it does."""
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
        groups: dict[object, list[Plan]] = {}
        for plan in plans:
            self._check_type(plan)
            groups.setdefault(schedule_key(plan), []).append(plan)
        for group in groups.values():
            self._check_time()
            trials = [self._verdict(plan) for plan in group]
            begin = self._clock()
            possible = [trial for trial in trials if trial.fits]
            done.update((t.plan, t) for t in trials if not t.fits)
            if possible:
                done.update((t.plan, t) for t in self._shared.timed(possible))
            self.cost_s += self._clock() - begin

    @staticmethod
    def _check_type(plan: object) -> None:
        if not isinstance(plan, Plan):
            raise ParplanError(f"evaluate: expected a Plan, got {plan!r}")

    def _record(self, asked: Sequence[Plan], done: dict[Plan, Trial]) -> None:
        for plan in asked:
            trial = self._trials.get(plan) or done.get(plan)
            if trial is None:
                continue
            self.num_asked += 1
            self._trials.setdefault(plan, trial)
            best = self.improvements[-1].step_s if self.improvements else IMPOSSIBLE
            if trial.step_s is not None and trial.step_s < best:
                self.improvements.append(
                    Improvement(
                        evaluations=self.num_asked, seconds=self.seconds, step_s=trial.step_s
                    )
                )

    def _bound(self, plans: Sequence[Plan]) -> None:
        """Bounds of plans with as many stages of one placement, and one way of backwards."""
        limit = self._memory_ratio * self._cluster.accelerator.memory_bytes
        kind, ranks = schedule_kind(plans[0].schedule), plans[0].num_stages
        least: dict[int, float] = {}
        known: list[Plan] = []
        costs = []
        for plan in plans:
            self.num_bounds += 1
            self._bounds[plan] = IMPOSSIBLE
            if self._why_not(plan):
                continue
            try:
                stages = self._shared.stages(plan)
            except ParplanError:
                continue
            if id(stages) not in least:
                least[id(stages)] = memory_bound_bytes(kind, ranks, stages.needs)
            if least[id(stages)] <= limit:
                known.append(plan)
                costs.append(stages.costs)
        if known:
            counts = [plan.num_micro_batches for plan in known]
            found = step_bounds_s(kind, ranks, counts, stage_ticks(costs)).tolist()
            self._bounds.update(zip(known, found, strict=True))
