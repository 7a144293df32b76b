"""Metrics of the plan of a cell that a landscape can show."""

from collections.abc import Callable
from typing import NamedTuple

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.objectives import (
    ObjectiveInputs,
    TrainingRun,
    cost,
    energy_kwh,
    tokens_per_s,
    training_s,
)
from parplan.planners.costs.trial import Trial
from parplan.sim.memory.peak import GB
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload

DAY_S = 86400.0


def mfu(trial: Trial, setting: ObjectiveInputs) -> float:
    """Model FLOP/s over the peak rate."""
    workload, cluster = setting.workload, setting.cluster
    peak = cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    return workload.model_flops / (trial.step_s or 0) / cluster.num_accelerators / peak


def bubble(trial: Trial, setting: ObjectiveInputs) -> float:
    """Share of the step in which compute streams idle."""
    return predict(compile_plan(setting.workload, setting.cluster, trial.plan)).bubble


def memory_gb(trial: Trial, setting: ObjectiveInputs) -> float:
    """Peak memory of the fullest accelerator."""
    return max(trial.memory_bytes) / GB


class Metric(NamedTuple):
    """One number of a plan with a step time."""

    label: str
    value: Callable[[Trial, ObjectiveInputs], float]
    more_is_better: bool = False
    needs: tuple[str, ...] = ()
    """Fields of `TrainingRun` without which it is not known."""
    shown: float = 1.0
    """What a value is multiplied by where the label is said: 100 for per cent of a share."""


METRICS: dict[str, Metric] = {
    "step-time": Metric("step time [s]", lambda trial, _: trial.step_s or 0.0),
    "tokens-per-accelerator": Metric("tokens/s of an accelerator", tokens_per_s, True),
    "mfu": Metric("MFU [% of the peak]", mfu, True, shown=100.0),
    "memory": Metric("peak memory of an accelerator [GB]", memory_gb),
    "bubble": Metric("bubble [% of the step]", bubble, shown=100.0),
    "training-time": Metric(
        "training time [days]", lambda t, s: training_s(t, s) / DAY_S, needs=("tokens",)
    ),
    "energy": Metric("energy of the training, at most [kWh]", energy_kwh, needs=("tokens",)),
    "cost": Metric(
        "cost of the training [currency of the price]", cost, needs=("tokens", "price_per_hour")
    ),
}
"""Every metric by name."""

OPTIONS = {"tokens": "--tokens", "price_per_hour": "--price-per-hour"}


def metric(name: str, run: TrainingRun, cluster: Cluster) -> Metric:
    """The metric of that name.

    Raises `ParplanError` that suggests near names, or says what it needs.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    for field in METRICS[name].needs:
        if getattr(run, field) is None:
            raise ParplanError(f"--metric {name}: needs {OPTIONS[field]}")
    if name == "energy" and cluster.accelerator.board_power_w is None:
        raise ParplanError(f"--metric energy: the power of {cluster.accelerator.name} is not known")
    return METRICS[name]


def measures(
    trial: Trial, workload: Workload, cluster: Cluster, run: TrainingRun
) -> dict[str, float]:
    """All metrics that can be told of a plan with a step time, by name."""
    setting = ObjectiveInputs(workload, cluster, run)
    return {
        name: one.value(trial, setting)
        for name, one in METRICS.items()
        if all(getattr(run, field) is not None for field in one.needs)
        and (name != "energy" or cluster.accelerator.board_power_w is not None)
    }
