"""Pictures of runs and of searches. Each function returns a matplotlib `Figure` of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from parplan.planners.costs.trial import Trial
from parplan.sim.run import Event, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    "forward": "#56b4e9",
    "backward": "#e69f00",
    "input gradient": "#e69f00",
    "weight gradient": "#f0e442",
    "optimizer": "#999999",
    "send": "#009e73",
    "data-parallel": "#cc79a7",
    "other": "#d9d9d9",
}

COMPUTE_KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
}

COMPUTE_HEIGHT, STREAM_HEIGHT = 0.6, 0.14
"""Shares of a rank's row; each stream of communication has a thinner lane below the compute."""


def gantt(runs: Mapping[str, Run]) -> Figure:
    """One panel per run: what each pipeline rank does over time, all panels on one time axis."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    heights = [max(1, run.num_ranks) + 1 for run in runs.values()]
    figure = Figure(figsize=(11, 0.8 + 0.55 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=heights)
    kinds: set[str] = set()
    end_s = max((run.step_s for run in runs.values()), default=0.0)
    scale, unit = (1.0, "s") if end_s >= 1 else (1e3, "ms")
    for axes, (label, run) in zip(panels[:, 0], runs.items(), strict=True):
        kinds |= _draw_run(axes, run, scale)
        axes.set_title(
            f"{label}: step {run.step_s * scale:.4g} {unit}, bubble {run.bubble:.1%}",
            loc="left",
            fontsize=10,
        )
    panels[-1, 0].set_xlabel(f"time [{unit}]")
    panels[-1, 0].set_xlim(0, end_s * scale * 1.005 or 1.0)
    handles = [Patch(color=colour, label=k) for k, colour in COLOURS.items() if k in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) or 1)
    return figure


def _draw_run(axes: Axes, run: Run, scale: float) -> set[str]:
    from matplotlib.collections import PolyCollection

    bars: dict[str, list[np.ndarray]] = {}
    for event in run.events:
        bars.setdefault(_kind(event), []).append(_bar(event, scale))
    for kind, corners in bars.items():
        # White seams part one micro-batch from the next; they would hide thin messages.
        seam = 0.4 if kind in COMPUTE_KINDS.values() else 0.0
        axes.add_collection(
            PolyCollection(
                corners, facecolors=COLOURS[kind], edgecolors="white", linewidths=seam, label=kind
            )
        )
    ranks = range(run.num_ranks)
    axes.set_yticks(ranks, [f"rank {rank}" for rank in ranks])
    axes.set_ylim(run.num_ranks - 0.45, -0.55)
    axes.axvline(run.step_s * scale, color="black", linewidth=0.8)
    return set(bars)


def _kind(event: Event) -> str:
    if event.stream != "compute":
        return event.stream if event.stream in COLOURS else "other"
    if event.name.startswith("optimizer"):
        return "optimizer"
    op = event.name.lstrip("0123456789")[:1]
    return COMPUTE_KINDS.get(op, "other")


def _bar(event: Event, scale: float) -> np.ndarray:
    top, height = event.rank - 0.45, COMPUTE_HEIGHT
    if event.stream != "compute":
        top += COMPUTE_HEIGHT + (STREAM_HEIGHT if event.stream == "data-parallel" else 0.0)
        height = STREAM_HEIGHT
    left, right = event.start_s * scale, event.end_s * scale
    return np.array([(left, top), (right, top), (right, top + height), (left, top + height)])


def cost_landscape(
    trials: Sequence[Trial], title: str, floors: Mapping[tuple[int, int], float] | None = None
) -> Figure:
    """Predicted step time over pipeline stages and micro-batch size, the best of each cell.

    Hatched: no candidate there fits in memory. Framed: the fastest of all. Empty: no candidate.
    `floors`: seconds that a step takes at least, by (stages, size), shown where none was tried.
    """
    from matplotlib.figure import Figure

    found = {} if floors is None else {cell: s for cell, s in floors.items() if s > 0}
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
    for (stage, size), floor in found.items():
        cell = sizes.index(size), stages.index(stage)
        if np.isnan(seconds[cell]):
            bounded[cell], tried[cell] = floor < np.inf, True
            seconds[cell] = floor if floor < np.inf else np.nan
    figure = Figure(figsize=(2.5 + 1.1 * len(stages), 1.6 + 0.6 * len(sizes)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(seconds), cmap="viridis_r", aspect="auto")
    _label_cells(axes, seconds, tried, bounded, best)
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
    axes: Axes, seconds: np.ndarray, tried: np.ndarray, bounded: np.ndarray, best: np.ndarray
) -> None:
    finite = np.isfinite(seconds)
    middle = np.nanmean(seconds) if finite.any() else 0.0
    for (row, column), value in np.ndenumerate(seconds):
        if finite[row, column]:
            colour = "white" if value > middle else "black"
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
