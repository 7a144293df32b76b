"""Step time over two dimensions of the plans of a search, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from parplan.planners.costs.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Rectangle

DARK = 0.45
"""Cells of a lower brightness have white text."""


def cost_landscape(
    trials: Sequence[Trial], title: str, lower_bounds: Mapping[tuple[int, int], float] | None = None
) -> Figure:
    """Predicted step time over pipeline stages and micro-batch size, the best of each cell.

    Hatched: no candidate there fits in memory. Framed: the fastest of all. Empty: no candidate.
    `lower_bounds`: of steps in seconds, by (stages, size), shown where none was tried.
    """
    from matplotlib.figure import Figure

    found = {} if lower_bounds is None else {cell: s for cell, s in lower_bounds.items() if s > 0}
    stages = sorted({t.plan.num_stages for t in trials} | {s for s, _ in found})
    sizes = sorted({t.plan.batch_per_device for t in trials} | {b for _, b in found})
    seconds = np.full((len(sizes), len(stages)), np.nan)
    tried = np.zeros(seconds.shape, dtype=bool)
    for trial in trials:
        cell = sizes.index(trial.plan.batch_per_device), stages.index(trial.plan.num_stages)
        tried[cell] = True
        if trial.step_s is not None:
            seconds[cell] = np.fmin(seconds[cell], trial.step_s)
    best = np.where(np.isfinite(seconds), seconds, np.inf)
    bounded = np.zeros(seconds.shape, dtype=bool)
    for (stage, size), lower_bound in found.items():
        cell = sizes.index(size), stages.index(stage)
        if np.isnan(seconds[cell]):
            bounded[cell], tried[cell] = lower_bound < np.inf, True
            seconds[cell] = lower_bound if lower_bound < np.inf else np.nan
    figure = Figure(figsize=(2.5 + 1.1 * len(stages), 1.6 + 0.6 * len(sizes)), layout="constrained")
    axes = figure.subplots()
    if not seconds.size:
        axes.set_axis_off()
        axes.set_title(f"{title}\nno plan was tried", fontsize=10)
        return figure
    image = axes.imshow(np.ma.masked_invalid(seconds), cmap="viridis_r", aspect="auto")
    _label_cells(axes, seconds, tried, bounded, best, image)
    axes.set_xticks(range(len(stages)), [str(s) for s in stages])
    axes.set_yticks(range(len(sizes)), [str(b) for b in sizes])
    axes.set_xlabel("pipeline stages (1: no pipeline)")
    axes.set_ylabel("micro-batch size [sequences]")
    said = "\n\u2265: a lower bound, nothing was tried there" if bounded.any() else ""
    axes.set_title(title + said, fontsize=10)
    if np.isfinite(seconds).any():
        figure.colorbar(image, ax=axes, label="predicted step time [s]")
    return figure


def _label_cells(
    axes: Axes,
    seconds: np.ndarray,
    tried: np.ndarray,
    bounded: np.ndarray,
    best: np.ndarray,
    image: AxesImage,
) -> None:
    finite = np.isfinite(seconds)
    for (row, column), value in np.ndenumerate(seconds):
        if finite[row, column]:
            red, green, blue, _ = image.to_rgba(value)
            colour = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < DARK else "black"
            said = f"\u2265 {value:.3g}" if bounded[row, column] else f"{value:.3g}"
            axes.text(column, row, said, ha="center", va="center", color=colour)
        elif tried[row, column]:
            axes.add_patch(_cell(row, column, hatch="///", edgecolor="grey", linewidth=0))
    if np.isfinite(best).any():
        row, column = np.unravel_index(np.argmin(best), best.shape)
        frame = _cell(int(row), int(column), edgecolor="red", linewidth=2.5)
        frame.set_clip_on(False)
        axes.add_patch(frame)


def _cell(row: int, column: int, *, edgecolor: str, linewidth: float, hatch: str = "") -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.5, row - 0.5),
        1,
        1,
        fill=False,
        hatch=hatch,
        edgecolor=edgecolor,
        linewidth=linewidth,
    )
