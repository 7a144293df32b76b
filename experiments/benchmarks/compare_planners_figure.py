"""The regret of planners over the evaluations and over the time that they took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from parplan.experiments.benchmarks.compare_planners import Comparison
from parplan.planners.search.run import SearchReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 300
LINEAR_BELOW = 1.0
"""Per cent of regret below which the axis is linear, so that none at all has a place on it."""

Floats = npt.NDArray[np.float64]


def regret_figure(comparison: Comparison, title: str) -> Figure:
    """Median regret of each planner, shaded from the best to the worst seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, comparison, "evaluations")
    _draw(right, comparison, "seconds")
    left.set_xlabel("evaluations")
    right.set_xlabel("time [s]")
    left.set_ylabel("step time above the proven optimum [%]")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    note = "median of the seeds; shaded: best to worst seed; star: proven to be the optimum"
    figure.suptitle(f"{title}\n{note}", fontsize=10)
    return figure


def _draw(axes: Axes, comparison: Comparison, field: str) -> None:
    from matplotlib.ticker import FuncFormatter

    ends = [_end(report, field) for report in comparison.reports]
    begins = [getattr(r.improvements[0], field) for r in comparison.reports if r.improvements]
    x = np.geomspace(max(min(begins, default=1.0), 1e-4), max(*ends, 1e-3), POINTS)
    for number, planner in enumerate(comparison.planners):
        own = comparison.of(planner)
        curves = np.array([_curve(comparison, report, field, x) for report in own])
        middle = np.median(curves, axis=0)
        # Where a search has ended, its line ends; where a seed has found nothing, none is drawn.
        shown = np.isfinite(middle) & (x <= max(_end(report, field) for report in own) * 1.001)
        colour = f"C{number}"
        if shown.any():
            axes.plot(x[shown], middle[shown], color=colour, label=planner, drawstyle="steps-post")
            low, high = curves.min(axis=0)[shown], curves.max(axis=0)[shown]
            high = np.where(np.isfinite(high), high, middle[shown])
            axes.fill_between(x[shown], low, high, color=colour, alpha=0.12, linewidth=0)
            mark = "*" if all(report.proven for report in own) else "o"
            axes.plot(x[shown][-1:], middle[shown][-1:], mark, color=colour, markersize=9)
        else:
            axes.plot([], [], color=colour, label=f"{planner} (nothing fits)")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    axes.set_ylim(-0.1, None)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, alpha=0.3)


def _end(report: SearchReport, field: str) -> float:
    return float(report.num_asked if field == "evaluations" else report.seconds)


def _curve(comparison: Comparison, report: SearchReport, field: str, x: Floats) -> Floats:
    """Per cent of regret at each of `x`; infinite before anything was found."""
    steps: Sequence[float] = [getattr(step, field) for step in report.improvements]
    regrets = [comparison.regret_of(step.step_s) for step in report.improvements]
    values = 100 * np.array([np.inf, *regrets])
    return np.asarray(values[np.searchsorted(np.array(steps), x * (1 + 1e-9), side="right")])
