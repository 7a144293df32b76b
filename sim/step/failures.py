"""Cost of accelerator failures over a training run."""

import math
from dataclasses import dataclass

from parplan.errors import ParplanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Rate and cost of failures of ranks, which are independent of each other."""

    mean_time_between_s: float
    """Of the whole cluster: that of one accelerator over their number."""
    restart_s: float
    """From a failure until training goes on from the last checkpoint."""
    checkpoint_s: float
    """Writing one checkpoint, while which training stands still."""

    def __post_init__(self) -> None:
        if self.mean_time_between_s <= 0 or self.restart_s < 0 or self.checkpoint_s < 0:
            raise ParplanError(
                f"failures: times must not be negative, and mean_time_between_s positive: {self}"
            )


def expected_s(step_s: float, num_steps: int, every: int, failures: Failures) -> float:
    """Expected seconds of `num_steps` steps with a checkpoint after `every` of them.

    A failure, in a step, a checkpoint or a restart, loses all since the last checkpoint, and a
    restart follows. With exponential times between failures of mean M, a segment of w seconds
    takes exp(R / M) M (exp(w / M) - 1) in the mean, R being the restart (Daly 2006, "A higher
    order estimate of the optimum checkpoint interval for restart dumps").
    """
    if every < 1 or num_steps < 0:
        raise ParplanError(f"failures: {num_steps} steps with a checkpoint every {every}")
    mean, restart = failures.mean_time_between_s, failures.restart_s
    segments, rest = divmod(num_steps, every)
    whole = every * step_s + failures.checkpoint_s
    last = rest * step_s + (failures.checkpoint_s if rest else 0.0)
    total = segments * math.expm1(whole / mean) + math.expm1(last / mean)
    return math.exp(restart / mean) * mean * total


def best_checkpoint_interval(step_s: float, failures: Failures) -> int:
    """The steps between checkpoints that lose the least time, to first order.

    sqrt(2 C M) seconds (Young 1974, "A first order approximation to the optimum checkpoint
    interval"), in whole steps, at least one.
    """
    seconds = math.sqrt(2 * failures.checkpoint_s * failures.mean_time_between_s)
    return max(1, round(seconds / step_s)) if step_s > 0 else 1
