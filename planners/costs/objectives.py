"""Objectives of a search; smaller is better.

On a given cluster a plan with a shorter step is better by time, throughput, cost and goodput alike,
so that the proof of a search for the shortest step holds for all of these.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.goal import LEAST_MEMORY, STEP_TIME, Goal
from parplan.planners.costs.trial import Trial
from parplan.sim.plan import Plan
from parplan.sim.step.failures import Failures, best_checkpoint_interval, expected_s
from parplan.sim.workload import Workload

HOUR_S = 3600.0
J_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """The training that plans are compared for; what an objective needs has to be given."""

    tokens: float | None = None
    """To be trained on."""
    price_per_hour: float | None = None
    """Of one accelerator, in any currency."""
    failures: Failures | None = None
    checkpoint_every: int | None = None
    """Steps between checkpoints; None: the number that loses least (Young 1974)."""

    def __post_init__(self) -> None:
        for name in ("tokens", "price_per_hour", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParplanError(f"{name}: must be above 0, got {value}")

    def num_steps(self, workload: Workload) -> int:
        """Steps until all tokens are seen; raises `ParplanError` where no number is given."""
        if self.tokens is None:
            raise ParplanError("tokens: this objective needs the number of tokens to train on")
        return math.ceil(self.tokens / (workload.global_batch * workload.seq_len))


class ObjectiveInputs(NamedTuple):
    """The cluster and job for which plans are compared."""

    workload: Workload
    cluster: Cluster
    run: TrainingRun


class Objective(NamedTuple):
    """One way to compare plans."""

    unit: str
    value: Callable[[Trial, ObjectiveInputs], float]
    """Of a plan with a step time, as it is shown."""
    more_is_better: bool = False
    by_step_time: bool = True
    """Whether the plan with the shortest step is the best one."""

    def key(self, trial: Trial, setting: ObjectiveInputs) -> float:
        """Sort key; smaller is better."""
        value = self.value(trial, setting)
        return -value if self.more_is_better else value


def step_s(trial: Trial, setting: ObjectiveInputs) -> float:
    """Seconds of one training step; raises `ParplanError` for a plan that does not fit."""
    if trial.step_s is None:
        raise ParplanError(f"objective: a plan without a step time: {trial.reason or trial.plan}")
    return trial.step_s


def tokens_per_s(trial: Trial, setting: ObjectiveInputs) -> float:
    """Tokens that one accelerator trains on in a second."""
    workload, cluster = setting.workload, setting.cluster
    tokens = workload.global_batch * workload.seq_len
    return tokens / step_s(trial, setting) / cluster.num_accelerators


def training_s(trial: Trial, setting: ObjectiveInputs) -> float:
    """Seconds until all tokens are seen, with failures where these are given."""
    seconds, count = step_s(trial, setting), setting.run.num_steps(setting.workload)
    failures = setting.run.failures
    if failures is None:
        return seconds * count
    every = setting.run.checkpoint_every or best_checkpoint_interval(seconds, failures)
    try:
        return expected_s(seconds, count, every, failures)
    except OverflowError:
        raise ParplanError(
            f"failures: one in {failures.mean_time_between_s:g} s is too many for a checkpoint "
            f"every {every} steps of {seconds:.3g} s: training does not end"
        ) from None


def cost(trial: Trial, setting: ObjectiveInputs) -> float:
    """Cost of all accelerators until all tokens are seen."""
    price = setting.run.price_per_hour
    if price is None:
        raise ParplanError("price_per_hour: the cost needs the price of an accelerator")
    return price * setting.cluster.num_accelerators * training_s(trial, setting) / HOUR_S


def goodput(trial: Trial, setting: ObjectiveInputs) -> float:
    """Tokens per second of the cluster, in the mean, over failures, restarts and checkpoints."""
    if setting.run.failures is None:
        raise ParplanError("failures: the goodput needs how often accelerators fail")
    workload = setting.workload
    tokens = workload.global_batch * workload.seq_len * setting.run.num_steps(workload)
    return tokens / training_s(trial, setting)


def head_room(trial: Trial, setting: ObjectiveInputs) -> float:
    """The share of its memory that the fullest device has left."""
    return 1 - max(trial.memory_bytes) / setting.cluster.accelerator.memory_bytes


def energy_kwh(trial: Trial, setting: ObjectiveInputs) -> float:
    """Kilowatt hours of all accelerators until all tokens are seen, at most: at full power."""
    accelerator = setting.cluster.accelerator
    if accelerator.board_power_w is None:
        raise ParplanError(f"energy: the power of {accelerator.name} is not known")
    watts = accelerator.board_power_w * setting.cluster.num_accelerators
    return watts * training_s(trial, setting) / J_PER_KWH


OBJECTIVES: dict[str, Objective] = {
    "step-time": Objective("s", step_s),
    "tokens-per-accelerator": Objective("tokens/s", tokens_per_s, more_is_better=True),
    "training-time": Objective("s", training_s),
    "cost": Objective("", cost),
    "energy": Objective("kWh", energy_kwh),
    "goodput": Objective("tokens/s", goodput, more_is_better=True),
    "head-room": Objective("of memory", head_room, more_is_better=True, by_step_time=False),
}
"""Every objective by name."""


def objective(name: str) -> Objective:
    """The objective of that name; raises `ParplanError` that suggests near names."""
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def goal_of(name: str, setting: ObjectiveInputs) -> Goal:
    """Return what a search for the best plan by that objective minimises.

    Raises `ParplanError` for an unknown objective, and for one that lacks what it needs.
    """
    chosen = objective(name)
    chosen.value(Trial(plan=Plan(), memory_bytes=(1.0,), step_s=1.0), setting)
    return STEP_TIME if chosen.by_step_time else LEAST_MEMORY


def pareto(trials: Iterable[Trial]) -> list[Trial]:
    """The possible plans that no other one beats in both step time and memory, fastest first.

    Each needs less memory than all faster ones. Of plans that are equal in both, the first.
    """
    timed = [trial for trial in trials if trial.step_s is not None]
    front: list[Trial] = []
    for trial in sorted(timed, key=lambda t: (t.step_s or 0.0, max(t.memory_bytes))):
        if not front or max(trial.memory_bytes) < max(front[-1].memory_bytes):
            front.append(trial)
    return front
