"""Pareto front of step time and memory, as a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from parplan.experiments.output.folder import OutputFolder
from parplan.planners.costs.objectives import pareto
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.why import plan_label
from parplan.sim.memory.peak import GB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = 20_000
"""Plans that are drawn at most, evenly chosen."""


def write_pareto(output: OutputFolder, trials: Sequence[Trial], limit_bytes: float) -> str:
    """`pareto.csv` and `pareto.png`; returns the line that says the ends of the front."""
    front = pareto(trials)
    output.write_csv(
        "pareto.csv",
        [
            {
                "plan": plan_label(trial.plan),
                "step_s": repr(trial.step_s),
                "memory_gb": f"{max(trial.memory_bytes) / GB:.3f}",
                **{k: v for k, v in trial.plan.to_json().items() if k != "stage_layers"},
                "stage_layers": " ".join(map(str, trial.plan.stage_layers or ())),
            }
            for trial in front
        ],
    )
    output.write_figure("pareto.png", lambda: pareto_figure(trials, front, limit_bytes))
    first, last = front[0], front[-1]
    return (
        f"time and memory: {len(front)} plan{'s' * (len(front) > 1)} of {len(trials)} tried "
        f"that no other one beats, from "
        f"{first.step_s:.3f} s with {max(first.memory_bytes) / GB:.1f} GB to "
        f"{last.step_s:.3f} s with {max(last.memory_bytes) / GB:.1f} GB"
    )


def pareto_figure(trials: Sequence[Trial], front: Sequence[Trial], limit_bytes: float) -> Figure:
    """Every possible plan as a point, the front as steps, and the limit of memory."""
    from matplotlib.figure import Figure

    timed = [trial for trial in trials if trial.step_s is not None]
    every = max(1, -(-len(timed) // DRAWN))
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*_points(timed[::every]), s=6, color="#999999", label="plans", rasterized=True)
    axes.step(*_points(front), where="post", color="#d55e00", label="beaten by no other")
    axes.scatter(*_points(front), s=18, color="#d55e00")
    axes.axvline(limit_bytes / GB, color="black", linestyle=":", label="may be used")
    axes.set_xlabel("memory of the fullest device [GB]")
    axes.set_ylabel("predicted step time [s]")
    axes.set_yscale("log")
    axes.legend()
    return figure


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    memory = [max(trial.memory_bytes) / GB for trial in trials]
    return memory, [trial.step_s or 0.0 for trial in trials]
