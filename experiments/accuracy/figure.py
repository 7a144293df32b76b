"""The figure of `parplan validate`: predictions over measurements, and errors by source."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parplan.experiments.accuracy.table import FITTED
from parplan.experiments.cases.evaluate import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAND = 0.1
"""Half the width of the grey band: errors of up to 10 %."""

RATIOS = (0.25, 4.0)
"""Predicted over measured times that are drawn; what lies beyond is drawn at the edge."""

TICKS = (0.25, 0.33, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette without its yellow, which is hard to see on white."""

MARKERS = ("o", "s", "^", "D", "v")

BOX_FROM = 5
"""Of fewer runs the points say more than a box."""

Ratios = Mapping[str, Sequence[tuple[float, float]]]
"""For each source the measured and the predicted seconds of its runs."""


def figure(outcomes: Sequence[Outcome]) -> Figure:
    """Left: predicted over measured seconds. Right: their ratio, a row for each source.

    The rows, sorted by their medians, are the legend of the left side as well.
    """
    from matplotlib.figure import Figure

    sources = _by_source(outcomes)
    height = max(5.0, 1.4 + 0.25 * len(sources))
    drawing = Figure(figsize=(6.2 + 0.9 * height, height), layout="constrained")
    times, ratios = drawing.subplots(1, 2, width_ratios=(0.9 * height, 6.0))
    if not sources:
        drawing.suptitle("no run with a measured and a predicted time")
        return drawing
    _draw_times(times, sources)
    _draw_ratios(ratios, sources)
    return drawing


def _by_source(outcomes: Sequence[Outcome]) -> Ratios:
    """Sources with timed runs, the one whose predictions are longest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for o in outcomes:
        if o.error is not None and o.step_s is not None and o.case.step_s is not None:
            found.setdefault(o.case.group, []).append((o.case.step_s, o.step_s))

    def middle(group: str) -> tuple[float, str]:
        return -statistics.median(_ratios(found[group])), group

    return {group: found[group] for group in sorted(found, key=middle)}


def _label(group: str, runs: Sequence[tuple[float, float]]) -> str:
    return f"{group}{' *' if group in FITTED else ''} ({len(runs)})"


def _ratios(runs: Sequence[tuple[float, float]]) -> list[float]:
    return [predicted / measured for measured, predicted in runs]


def _style(place: int) -> dict[str, Any]:
    """Neighbouring rows differ in colour and in marker."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linewidths": 0,
    }


def _draw_times(axes: Any, sources: Ratios) -> None:
    ends = [second for runs in sources.values() for run in runs for second in run]
    limits = np.array([min(ends) / 1.3, max(ends) * 1.3])
    axes.fill_between(
        limits, (1 - BAND) * limits, (1 + BAND) * limits, color="0.85", linewidth=0, zorder=0
    )
    axes.plot(limits, limits, color="0.4", linewidth=0.8, zorder=1)
    # Large sources first, so that they do not hide the small ones.
    places = {group: place for place, group in enumerate(sources)}
    for group in sorted(sources, key=lambda g: -len(sources[g])):
        measured, predicted = zip(*sources[group], strict=True)
        few = len(measured) < 100
        axes.scatter(
            measured, predicted, s=16 if few else 7, alpha=0.9 if few else 0.45,
            **_style(places[group]),
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="measured step [s]", ylabel="predicted step [s]")
    axes.set_title(f"{sum(map(len, sources.values()))} runs (band: ±{BAND:.0%})", fontsize=10)


def _draw_ratios(axes: Any, sources: Ratios) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.axvspan(1 - BAND, 1 + BAND, color="0.85", linewidth=0, zorder=0)
    axes.axvline(1.0, color="0.4", linewidth=0.8, zorder=1)
    for row, runs in enumerate(sources.values()):
        ratios = np.clip(_ratios(runs), *RATIOS)
        # Spread over the row by the golden ratio: even, and the same every time.
        spread = (np.arange(len(ratios)) * 0.618034) % 1 - 0.5
        few = len(ratios) < 100
        axes.scatter(
            ratios, row + 0.55 * spread, s=14 if few else 5, alpha=0.8 if few else 0.35,
            zorder=2, clip_on=False, **_style(row),
        )  # fmt: skip
    _draw_boxes(axes, sources)
    axes.set(xscale="log", xlim=RATIOS, ylim=(len(sources) - 0.4, -0.6))
    axes.set_xticks(TICKS)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    axes.set_yticks(range(len(sources)), [_label(*source) for source in sources.items()])
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="0.92", zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("predicted / measured (box: middle half, whiskers: 10 % to 90 %)")
    axes.set_title("by source (runs; *: others of it are fitted to)", fontsize=10)


def _draw_boxes(axes: Any, sources: Ratios) -> None:
    """The middle half of a row and its median, and from where to where the middle 80 % reach."""
    for row, runs in enumerate(sources.values()):
        if len(runs) < BOX_FROM:
            continue
        ratios = np.clip(_ratios(runs), *RATIOS)
        low, first, middle, third, high = np.percentile(ratios, (10, 25, 50, 75, 90))
        top, bottom = row - 0.31, row + 0.31
        axes.hlines((row, row), (low, third), (first, high), color="black", linewidth=0.9)
        axes.hlines((top, bottom), first, third, color="black", linewidth=0.9)
        axes.vlines((first, third), top, bottom, color="black", linewidth=0.9)
        axes.vlines((low, high), row - 0.15, row + 0.15, color="black", linewidth=0.9)
        axes.vlines(middle, top, bottom, color="black", linewidth=2.0)
