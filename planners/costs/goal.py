"""Minimised quantities: step time, memory or expected step time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from parplan.planners.costs.trial import Trial

IMPOSSIBLE = float("inf")


def _step_s(trial: Trial) -> float:
    return IMPOSSIBLE if trial.step_s is None else trial.step_s


def _peak_bytes(trial: Trial) -> float:
    return IMPOSSIBLE if trial.step_s is None else max(trial.memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A number that every plan with a step time has, of which less is better.

    What only depends on the step time and gets worse with it (throughput, cost, goodput, energy) is
    the goal `STEP_TIME`: the order of plans, and with it the proof, is the same.
    """

    name: str
    key: Callable[[Trial], float]
    """Infinite for a plan without a step time."""
    bounded_by: Literal["step", "memory"]
    """What is never above the key: a lower bound on the step time in seconds, or one on the memory
    of the fullest rank in bytes."""

    def energy(self, trial: Trial) -> float:
        """Energy of a plan for local search: the logarithm of its key.

        Any plan that fits is better than any that does not; of these, the one that needs least
        memory is best, and those that cannot be laid out are worst.
        """
        if trial.step_s is not None:
            return math.log(self.key(trial))
        return 1e3 + math.log(max(trial.memory_bytes)) if trial.memory_bytes else 1e6

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The possible plan with the least key, the first of equals; None if nothing fits."""
        timed = [trial for trial in trials if trial.step_s is not None]
        if self.bounded_by == "memory":
            return min(timed, key=self.key, default=None)
        best, least = None, IMPOSSIBLE
        for trial in sorted(timed, key=_step_s):
            if _step_s(trial) >= least:
                break
            if self.key(trial) < least:
                best, least = trial, self.key(trial)
        return best


STEP_TIME = Goal(name="step-time", key=_step_s, bounded_by="step")
LEAST_MEMORY = Goal(name="head-room", key=_peak_bytes, bounded_by="memory")
