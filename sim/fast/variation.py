"""Perturbed durations: slow ranks and noise.

They are drawn before a schedule is simulated, so that every simulator is given the same.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.step.tape import Tape
from parplan.sim.ticks import Ints, stage_ticks


def varied_durations_ps(
    tape: Tape,
    costs: Sequence[StageCosts],
    *,
    slowdown: Mapping[int, float] | None = None,
    noise: float = 0.0,
    samples: int = 1,
    rng: np.random.Generator | None = None,
) -> Ints:
    """The duration of every action, in the order of the lists, shape [samples, actions].

    `slowdown`: by rank, what its durations are multiplied with (a straggler has more than 1).
    `noise`: each duration is multiplied with a factor of its own, log-normal with median 1 and
    this standard deviation of its logarithm, drawn from `rng`. For the `durations_ps` of
    `simulate` (one sample), `fast_many_ps` and `contended_many_ps`.
    Raises `ParplanError` for a factor or noise that is negative, and for noise without `rng`.
    """
    factors = np.ones(tape.num_ranks)
    for rank, factor in (slowdown or {}).items():
        if not 0 <= rank < tape.num_ranks or factor < 0:
            raise ParplanError(
                f"slowdown: rank {rank} x {factor}; ranks are 0 to {tape.num_ranks - 1}, and "
                f"factors not negative"
            )
        factors[rank] = factor
    if noise < 0 or (noise > 0 and rng is None):
        raise ParplanError(f"noise: {noise} must not be negative, and needs a generator `rng`")
    exact = stage_ticks([costs]).durations.reshape(-1)[tape.action_columns()].astype(np.float64)
    exact *= factors[tape.lists.rank()]
    drawn = np.ones((samples, len(tape.lists)))
    if noise > 0 and rng is not None:
        drawn = rng.lognormal(0.0, noise, drawn.shape)
    return np.rint(exact * drawn).astype(np.int64)
