"""Gantt charts of runs, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from parplan.experiments.figures.lanes import Floats, Lane, Window, draw_lane, is_narrow
from parplan.sim.run import Event, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {
    "forward": "#56b4e9",
    "backward": "#e69f00",
    "input gradient": "#e69f00",
    "weight gradient": "#f0e442",
    "optimizer": "#999999",
    "exchange within layers": "#d55e00",
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

EXCHANGES = ("tensor-parallel", "context-parallel", "expert-parallel")
"""Streams within the computations, which share a lane."""

COMPUTE_HEIGHT, STREAM_HEIGHT = 0.56, 0.11
"""Shares of a rank's row; each stream of communication has a thinner lane below the compute."""

MOST_RANKS = 16
"""Of more ranks, evenly spaced ones are drawn."""

PIXELS = 1200
"""Width of a panel; a part of the step has a third of it."""

SHARES = "pale and mixed colours: shares of the time, where bars are too narrow to be drawn"

ZOOMED = 24
"""Computations of a rank in a part of the step."""


class _Panels(NamedTuple):
    """The lanes of a run by rank, and what is drawn of them."""

    ranks: list[int]
    lanes: list[list[Lane]]
    kinds: set[str]


def gantt(runs: Mapping[str, Run]) -> Figure:
    """What each pipeline rank does over time, a panel per run, all on one time axis.

    Bars that are narrower than a few pixels are drawn by what they share of each pixel; three
    panels below then show the beginning, the middle and the end of the step.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    end_s = max((run.end_s for run in runs.values()), default=0.0)
    scale, unit = (1.0, "s") if end_s >= 1 else (1e3, "ms")
    found = {label: _panels(run, scale) for label, run in runs.items()}
    whole = Window(0.0, end_s * scale * 1.005 or 1.0, PIXELS)
    zoomed = {label: _parts(found[label], run, scale, whole) for label, run in runs.items()}
    heights = [
        1 + max(1, len(found[label].ranks))
        for label in runs
        for _ in range(1 + bool(zoomed[label]))
    ]
    row_inches = 0.55 if max(heights, default=0) <= 9 else 0.34
    figure = Figure(figsize=(11, 0.8 + row_inches * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights) or 1, 3, height_ratios=heights or [1])
    row, first, by_shares = -1, None, False
    for label, run in runs.items():
        row += 1
        axes = figure.add_subplot(grid[row, :], sharex=first)
        first = axes if first is None else first
        by_shares |= _draw(axes, found[label], whole)
        if not run.staggered:
            axes.axvline(run.step_s * scale, color="black", linewidth=0.8)
        axes.set_title(
            f"{label}: {_length(run, scale, unit)}, bubble {run.bubble:.1%}",
            loc="left",
            fontsize=10,
        )
        axes.set_xlabel(f"time [{unit}]")
        row += bool(zoomed[label])
        for column, (title, window) in enumerate(zoomed[label].items()):
            part = figure.add_subplot(grid[row, column])
            by_shares |= _draw(part, found[label], window)
            part.set_title(title, loc="left", fontsize=9)
            part.set_xlabel(f"time [{unit}]")
    kinds = set().union(*(panels.kinds for panels in found.values()))
    handles = [Patch(color=colour, label=k) for k, colour in COLOURS.items() if k in kinds]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) or 1,
        title=SHARES if by_shares else None,
        title_fontsize="small",
    )
    return figure


def _length(run: Run, scale: float, unit: str) -> str:
    """How long the step takes; of ranks that go on by themselves, from each to the next."""
    seconds = f"{run.step_s * scale:.4g} {unit}"
    return f"{seconds} from step to step" if run.staggered else f"step {seconds}"


def _panels(run: Run, scale: float) -> _Panels:
    places = np.linspace(0, run.num_ranks - 1, min(run.num_ranks, MOST_RANKS)).round()
    ranks = sorted({int(place) for place in places})
    row = {rank: i for i, rank in enumerate(ranks)}
    bars: list[dict[int, dict[str, list[tuple[float, float]]]]] = [{} for _ in ranks]
    kinds = set()
    for event in run.events:
        if event.rank in row:
            kind = _kind(event)
            kinds.add(kind)
            own = bars[row[event.rank]].setdefault(_lane(event), {})
            own.setdefault(kind, []).append((event.start_s * scale, event.end_s * scale))
    lanes = [
        [_made(i, number, own) for number, own in sorted(found.items())]
        for i, found in enumerate(bars)
    ]
    return _Panels(ranks, lanes, kinds)


def _made(row: int, number: int, bars: Mapping[str, list[tuple[float, float]]]) -> Lane:
    top, height = row - 0.45, COMPUTE_HEIGHT
    if number:
        top += COMPUTE_HEIGHT + (number - 1) * STREAM_HEIGHT
        height = STREAM_HEIGHT
    return Lane(top, height, {kind: np.array(sorted(own)) for kind, own in bars.items()})


def _parts(panels: _Panels, run: Run, scale: float, whole: Window) -> dict[str, Window]:
    """The beginning, middle and end of the step, where the whole of it is too narrow to see."""
    computations = [lanes[0] for lanes in panels.lanes if lanes]
    bars = [own for lane in computations for own in lane.bars.values()]
    if not bars or not is_narrow(bars, whole):
        return {}
    end, pixels = run.end_s * scale, PIXELS // 3
    widths: Floats = np.concatenate([own[:, 1] - own[:, 0] for own in bars])
    short = min(end / 3, ZOOMED * float(np.median(widths)))
    backward = [lane.bars["backward"][0, 1] for lane in computations if "backward" in lane.bars]
    filled = min(end / 3, max([short, *(1.05 * b for b in backward)]))
    names = ("warm-up", "steady state", "drain")
    if run.num_ranks == 1:
        names, filled = ("beginning", "middle", "end"), short
    middle = (end - short) / 2
    windows = ((0.0, filled), (middle, middle + short), (end - filled, end))
    return {
        name: Window(start, stop, pixels)
        for name, (start, stop) in zip(names, windows, strict=True)
    }


def _draw(axes: Axes, panels: _Panels, window: Window) -> bool:
    """Draw what a panel shows; whether some of it by shares."""
    seams, by_shares = tuple(COMPUTE_KINDS.values()), False
    for lanes in panels.lanes:
        for lane in lanes:
            by_shares |= draw_lane(axes, lane, window, COLOURS, seams)
    axes.set_aspect("auto")
    axes.set_yticks(range(len(panels.ranks)), [f"rank {rank}" for rank in panels.ranks])
    axes.set_ylim(max(1, len(panels.ranks)) - 0.45, -0.55)
    axes.set_xlim(window.start, window.end)
    return by_shares


def _kind(event: Event) -> str:
    if event.stream in EXCHANGES:
        return "exchange within layers"
    if event.stream != "compute":
        return event.stream if event.stream in COLOURS else "other"
    if event.name.startswith("optimizer"):
        return "optimizer"
    op = event.name.lstrip("0123456789")[:1]
    return COMPUTE_KINDS.get(op, "other")


def _lane(event: Event) -> int:
    """The number of the lane, from the top."""
    if event.stream == "compute":
        return 0
    if event.stream in EXCHANGES:
        return 1
    return 3 if event.stream == "data-parallel" else 2
