"""Steps in a row, with ranks that fail and checkpoints from which all begin again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parplan.errors import ParplanError
from parplan.sim.run import Run
from parplan.sim.step.failures import Failures
from parplan.sim.ticks import PS_PER_S, to_ps


class Failure(NamedTuple):
    """A rank that failed."""

    time_s: float
    rank: int
    first_lost: int
    """The step that training goes on with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Several training steps."""

    ends_s: tuple[float, ...]
    """When each step was done, in the attempt that counted."""
    end_s: float
    """When all was, the last checkpoint included."""
    failures: tuple[Failure, ...] = ()
    runs: tuple[Run, ...] = ()
    """Of every step, with its events at their times in the row; `step_s` is the time since the step
    before was done, or since training began, or began again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """Ranks fail, and checkpoints are written.

    When a rank fails, all ranks stop, and lose every step since the last checkpoint; after the
    restart, during which ranks may fail as well, they go on from there. A checkpoint is written
    when all ranks are done with `checkpoint_every` steps, and after the last one. What ends at the
    instant of a failure has ended.
    """

    costs: Failures
    """What restarts and checkpoints take, and how often ranks fail at random."""
    checkpoint_every: int
    at_s: Sequence[tuple[float, int]] | None = None
    """(second, rank) of the failures, in order; None: at random."""
    rng: np.random.Generator | None = None
    """Draws them if they are random: exponential times in between, any rank alike."""

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise ParplanError(f"checkpoint_every: must be at least 1, got {self.checkpoint_every}")
        if (self.at_s is None) == (self.rng is None):
            raise ParplanError("failures: give either their times `at_s` or a generator `rng`")
        if self.at_s is not None and sorted(self.at_s) != list(self.at_s):
            raise ParplanError(f"at_s: the failures must be in order, got {list(self.at_s)}")

    def moments_ps(self, num_ranks: int) -> Iterator[tuple[int, int]]:
        """(picosecond, rank) of one failure after the other."""
        for time_s, rank in self.at_s or ():
            if not 0 <= rank < num_ranks or time_s < 0:
                raise ParplanError(
                    f"at_s: rank {rank} at {time_s} s; ranks are 0 to {num_ranks - 1}, and times "
                    "not negative"
                )
            yield to_ps(time_s), rank
        now = 0.0
        while self.rng is not None:
            now += self.rng.exponential(self.costs.mean_time_between_s)
            yield to_ps(now), int(self.rng.integers(num_ranks))


def steps_with_failures(
    rows_ps: Mapping[int, Sequence[int]], num_steps: int, num_ranks: int, failing: Failing
) -> Steps:
    """Steps whose times in a row are known: no row depends on what was before it.

    `rows_ps`: by number of steps between two checkpoints, the end of each step of such a row.
    """
    restart, checkpoint = to_ps(failing.costs.restart_s), to_ps(failing.costs.checkpoint_s)
    moments = failing.moments_ps(num_ranks)
    failed = next(moments, None)
    now, ends, failures = 0, list[int](), list[Failure]()
    while len(ends) < num_steps:
        row = rows_ps[min(failing.checkpoint_every, num_steps - len(ends))]
        until = now + row[-1] + checkpoint
        if failed is None or failed[0] >= until:
            ends += [now + end for end in row]
            now = until
            continue
        while failed is not None and failed[0] < until:
            now = failed[0]
            until = now + restart
            failures.append(Failure(now / PS_PER_S, failed[1], len(ends)))
            failed = next(moments, None)
        now = until
    return Steps(
        ends_s=tuple(end / PS_PER_S for end in ends),
        end_s=now / PS_PER_S,
        failures=tuple(failures),
    )
