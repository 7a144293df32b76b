"""Expected step time under noise and stragglers."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import IMPOSSIBLE, Goal
from parplan.planners.costs.trial import Trial
from parplan.sim.fast.fast import fast_many_ps
from parplan.sim.fast.variation import varied_durations_ps
from parplan.sim.plan import Plan
from parplan.sim.ticks import stage_ticks, to_seconds
from parplan.sim.workload import Workload

KEPT_DURATIONS = 4_000_000
"""So many durations are drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Variation of steps around the prediction."""

    noise: float = 0.0
    """Standard deviation of the logarithm of each computation's factor, which has median 1."""
    straggler_factor: float = 1.0
    """What the computations of a slow pipeline rank are multiplied with."""
    straggler_share: float = 0.0
    """The share of replicas' steps in which one of their ranks, each as likely, is slow."""

    def __post_init__(self) -> None:
        if self.noise < 0 or self.straggler_factor < 0 or not 0 <= self.straggler_share <= 1:
            raise ParplanError(
                f"disturbance: noise and factor must not be negative, the share from 0 to 1: {self}"
            )


def expected_step(
    workload: Workload,
    cluster: Cluster,
    disturbance: Disturbance,
    *,
    samples: int = 32,
    seed: int = 0,
) -> Goal:
    """The expected step time as the goal of a search.

    The mean of the samples, but at least the step without a disturbance: a step is the longest of
    sums of durations, so its mean is no less than the step of mean durations (Jensen), and these
    are no shorter than the undisturbed ones. So bounds on the step bound it as well. Raises
    `ParplanError` where stragglers are faster than others, or without a sample.
    """
    if disturbance.straggler_factor < 1 or samples < 1:
        raise ParplanError(
            f"expected step: stragglers must not be faster than others, and at least 1 sample is "
            f"needed; got {disturbance}, {samples} samples"
        )
    shared = SharedCosts(workload, cluster)
    known: dict[Plan, float] = {}

    def key(trial: Trial) -> float:
        if trial.step_s is None:
            return IMPOSSIBLE
        if trial.plan not in known:
            rng = np.random.default_rng(seed)
            steps_s = _steps_s(shared, trial, disturbance, samples, rng)
            known[trial.plan] = max(trial.step_s, float(steps_s.mean()))
        return known[trial.plan]

    return Goal(name="expected-step-time", key=key, bounded_by="step")


def _steps_s(
    shared: SharedCosts,
    trial: Trial,
    disturbance: Disturbance,
    samples: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    plan = trial.plan
    tape, costs = shared.lists(plan).tape, shared.stages(plan).costs
    draws = samples * plan.data_parallel
    slow = np.where(
        rng.random(draws) < disturbance.straggler_share,
        rng.integers(0, tape.num_ranks, draws),
        -1,
    )
    ends = np.empty(draws, dtype=np.int64)
    order = np.argsort(slow, kind="stable").tolist()
    block = max(1, KEPT_DURATIONS // len(tape.lists))
    for rank, same in groupby(order, key=lambda draw: int(slow[draw])):
        mine = list(same)
        for begin in range(0, len(mine), block):
            part = mine[begin : begin + block]
            durations = varied_durations_ps(
                tape,
                costs,
                slowdown={rank: disturbance.straggler_factor} if rank >= 0 else None,
                noise=disturbance.noise,
                samples=len(part),
                rng=rng,
            )
            ticks = stage_ticks([costs] * len(part))
            ends[part] = fast_many_ps(tape, ticks, durations_ps=durations)
    return to_seconds(ends.reshape(samples, -1).max(axis=1))
