"""Search budgets and progress records."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.sim.plan import Plan

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of what a planner may ask; None: no limit."""

    evaluations: int | None = None
    """Plans asked about, also those that were asked about before."""
    seconds: float | None = None
    gap: float = 0.0
    """At most such a share of the best key may be left to gain where a search by bounds ends."""
    first: tuple[Plan, ...] = ()
    """Plans that a search by bounds tries before all others, so that it begins with a good one."""
    near: float = 0.0
    """Plans whose key is at most such a share above the best are of interest as well."""

    def left(self, num_asked: int) -> int | None:
        """The number of further requests after so many; None: no limit."""
        return None if self.evaluations is None else self.evaluations - num_asked

    def share_used(self, num_asked: int, seconds: float) -> float:
        """The used share of the budget, from 0 to 1; 0 without a budget."""
        used = num_asked / self.evaluations if self.evaluations else 0.0
        return min(1.0, max(used, seconds / self.seconds if self.seconds else 0.0))

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise ParplanError(f"budget: at least 1 evaluation, got {self.evaluations}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ParplanError(f"budget: more than 0 seconds, got {self.seconds}")
        if not 0 <= self.gap < 1:
            raise ParplanError(f"gap: at least 0 and below 100 %, got {self.gap:.0%}")


def budget_of(text: str) -> Budget:
    """The budget that `500` (evaluations) or `30s` (seconds) says; raises `ParplanError` else."""
    try:
        if not text.isascii() or "_" in text:
            raise ValueError(text)
        if text.endswith("s"):
            return Budget(seconds=float(text[:-1]))
        return Budget(evaluations=int(text))
    except ValueError:
        raise ParplanError(
            f"budget: expected evaluations, as in 500, or seconds, as in 30s; got {text!r}"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A plan better than all before it, and when it was found."""

    evaluations: int
    seconds: float
    step_s: float
    key: float
    """What the goal of the search says of it."""


class Stopped(BaseException):
    """The budget is used up. Nothing for a planner to catch: the runner does."""
