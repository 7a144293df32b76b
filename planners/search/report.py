"""The result of a search, its progress, and the check of its choice by the simulator."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from parplan.errors import RunFailedError
from parplan.planners.costs.goal import STEP_TIME, Goal
from parplan.planners.costs.plan_costs import PlanCosts
from parplan.planners.costs.trial import Trial

Progress = Callable[[str, int, int], None]
"""(what is being done, how many are done, of how many)"""


def no_progress(what: str, done: int, of: int) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a search: every candidate in the order of the space, and its time."""

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

    def whole(self) -> Self:
        """This report, for what stands on all of the search.

        Raises `KeyboardInterrupt` where it was interrupted: the search keeps that for itself, and
        its best is none. Raises `RunFailedError` where the planner failed.
        """
        if self.stopped == "interrupted":
            raise KeyboardInterrupt
        if self.stopped.startswith("failed"):
            raise RunFailedError(f"the search {self.stopped}")
        return self

    @property
    def num_possible(self) -> int:
        """Candidates that fit in memory."""
        if self.num_fitting is not None:
            return self.num_fitting
        return sum(trial.fits for trial in self.trials)

    @property
    def tried_all(self) -> bool:
        """Whether every candidate was tried."""
        return self.stopped == "finished"

    @property
    def untried_s(self) -> float:
        """No plan that was not tried has a step of fewer seconds; infinite: all were tried."""
        return math.inf if self.tried_all else 0.0

    @property
    def best(self) -> Trial | None:
        """The best possible candidate, the first of equals; None if nothing fits."""
        return self.goal.best(self.trials)

    @property
    def closest(self) -> Trial | None:
        """Return the candidate with the least memory among those that do not fit."""
        laid_out = [t for t in self.trials if not t.fits and t.memory_bytes]
        return min(laid_out, key=lambda t: max(t.memory_bytes), default=None)

    def nothing_fits(self) -> str:
        """What is known where no candidate that fits was found, in a few words."""
        closest = self.closest
        return self._found_nothing + (f"; the closest: {closest.reason}" if closest else "")

    @property
    def _found_nothing(self) -> str:
        return "no candidate is possible"


def confirm(costs: PlanCosts, best: Trial | None) -> None:
    """Simulate the choice in the reference simulator, which has to agree."""
    if best is not None:
        step_s = costs.simulated_s(best.plan)
        if step_s != best.step_s:
            raise AssertionError(f"{best.plan}: {step_s} s simulated, {best.step_s} s evaluated")
