"""Verdicts and step times of plans from the costs and the memory of their stages.

These are modelled (`parplan.planners.costs.cost_cache.SharedCosts`) or measured
(`parplan.backend.planning.measured_costs.MeasuredCosts`).
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from parplan.errors import ParplanError
from parplan.planners.costs.trial import Trial, verdict
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.fast.fast import Kernel, fast_many
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import RankMemory, StageNeeds, rank_memory
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import moments_of_size, schedule_key, scheduled
from parplan.sim.schedules import make_program
from parplan.sim.step.tape import Tape, lower
from parplan.sim.ticks import stage_ticks

Item = TypeVar("Item")

KEPT_ACTIONS = 20_000_000
"""Tapes are kept until they have so many actions, of about 50 bytes each."""

ScheduleKey = tuple[str, int, int, int]
"""What `schedule_key` gives."""


class Lists(NamedTuple):
    """Quantities that follow from the instruction lists of a schedule."""

    moments: tuple[Moments, ...]
    tape: Tape


class Stages(NamedTuple):
    """The stages of a plan."""

    costs: tuple[StageCosts, ...]
    needs: tuple[StageNeeds, ...]


def by_lists(items: Iterable[Item], plan_of: Callable[[Item], Plan]) -> list[list[Item]]:
    """The items whose plans share their lists together, in the order of the first of each."""
    groups: dict[ScheduleKey, list[Item]] = {}
    for item in items:
        groups.setdefault(schedule_key(plan_of(item)), []).append(item)
    return list(groups.values())


class PlanCosts(ABC):
    """Costs of plans. What follows from their instruction lists alone is computed once."""

    def __init__(self, device_bytes: float) -> None:
        """`device_bytes`: the memory of a device."""
        self.device_bytes = device_bytes
        self._lists: dict[ScheduleKey, Lists] = {}
        self._moments: dict[ScheduleKey, tuple[Moments, ...]] = {}
        self._moments_of_few: dict[ScheduleKey, tuple[Moments, ...]] = {}
        self._kept = 0
        self._lock = threading.RLock()

    @abstractmethod
    def stages(self, plan: Plan) -> Stages:
        """Costs and needs of every stage; raises `ParplanError` where `plan` cannot be laid out."""

    def simulated_s(self, plan: Plan) -> float:
        """The step time by the simulator itself, which the fast evaluator has to equal."""
        return simulate(scheduled(plan).schedule, self.stages(plan).costs).step_s

    def moments(self, plan: Plan) -> tuple[Moments, ...]:
        """Moments of the largest memory use of each rank; raises `ParplanError` as `lists` does."""
        return self.moments_of(schedule_key(plan))

    def moments_of(self, key: ScheduleKey) -> tuple[Moments, ...]:
        """`moments` of plans with that `schedule_key`."""
        if key not in self._moments:
            self._moments[key] = moments_of_size(key, self._moments_of_few)
        return self._moments[key]

    def lists(self, plan: Plan) -> Lists:
        """Instruction lists of a plan; raises `ParplanError` where there is no such size."""
        key = schedule_key(plan)
        with self._lock:  # An executor may be one of threads.
            found = self._lists.pop(key, None)
            if found is None:
                program = make_program(key[0], key[1], key[3], key[2])
                found = Lists(self.moments(plan), lower(program))
                self._kept += len(found.tape)
            self._lists[key] = found
            while self._kept > KEPT_ACTIONS and len(self._lists) > 1:
                self._kept -= len(self._lists.pop(next(iter(self._lists))).tape)
        return found

    def memory(self, plan: Plan) -> tuple[RankMemory, ...]:
        """The peak of every rank."""
        needs = self.stages(plan).needs
        return rank_memory(needs, self.moments(plan))

    def judge(self, plan: Plan, memory_ratio: float) -> Trial:
        """Whether a plan can be laid out and fits in memory, as `trial.judge`."""
        try:
            memory = self.memory(plan)
        except ParplanError as error:
            return Trial(plan=plan, reason=str(error))
        return verdict(plan, memory, self.device_bytes, memory_ratio)

    def timed(self, trials: Sequence[Trial], kernel: Kernel = "auto") -> list[Trial]:
        """Possible plans that share their lists, with their step times."""
        tape = self.lists(trials[0].plan).tape
        ticks = stage_ticks([self.stages(trial.plan).costs for trial in trials])
        steps_s = fast_many(tape, ticks, kernel=kernel).tolist()
        return [replace(t, step_s=s) for t, s in zip(trials, steps_s, strict=True)]

    def evaluated(self, memory_ratio: float, plans: Sequence[Plan]) -> list[Trial]:
        """Verdicts and step times of plans, in order; those that share lists are timed together."""
        trials = [self.judge(plan, memory_ratio) for plan in plans]
        possible = [number for number, trial in enumerate(trials) if trial.fits]
        for numbers in by_lists(possible, lambda number: trials[number].plan):
            timed = self.timed([trials[number] for number in numbers])
            for number, trial in zip(numbers, timed, strict=True):
                trials[number] = trial
        return trials
