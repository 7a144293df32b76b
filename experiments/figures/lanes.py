"""Bars of one lane of a Gantt chart: each on its own, or, below a pixel, what they share of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

NARROW = 6.0
"""Pixels: where bars are narrower in the median, a lane is drawn by shares."""

TICK = 1.2
"""Pixels of a bar that is drawn alone, at least."""

SPARSE = 0.1
"""Such a share of a lane may be ticks; of more, shares are drawn."""


class Lane(NamedTuple):
    """A row of bars by kind: begin and end of each, in the unit of the axis."""

    top: float
    height: float
    bars: Mapping[str, Floats]
    """Two columns each, in the order of time."""


class Window(NamedTuple):
    """What a panel shows of the time axis, and how wide that is."""

    start: float
    end: float
    pixels: int

    @property
    def pixel(self) -> float:
        """The time of a pixel."""
        return (self.end - self.start) / self.pixels or 1.0

    def part(self, bars: Floats) -> Floats:
        """The bars that reach into it."""
        return bars[(bars[:, 1] > self.start) & (bars[:, 0] < self.end)]


def is_narrow(bars: Sequence[Floats], window: Window) -> bool:
    """Whether bars are too narrow to be told apart."""
    parts = [window.part(own) for own in bars]
    widths = np.concatenate([np.zeros(0), *(part[:, 1] - part[:, 0] for part in parts)])
    widths = widths[widths > 0]
    return bool(len(widths) and np.median(widths) < NARROW * window.pixel)


def draw_lane(
    axes: Axes, lane: Lane, window: Window, colours: Mapping[str, str], seams: Sequence[str]
) -> bool:
    """Draw the bars of a lane that a panel shows, and say whether they were drawn by shares.

    `seams`: kinds whose bars a line parts.
    """
    shown = {kind: part for kind, bars in lane.bars.items() if len(part := window.part(bars))}
    ticks = sum(map(len, shown.values())) * TICK
    if is_narrow(list(shown.values()), window) and ticks > SPARSE * window.pixels:
        _draw_shares(axes, lane._replace(bars=shown), window, colours)
        return True
    from matplotlib.collections import PolyCollection

    low, high = lane.top, lane.top + lane.height
    for kind, bars in shown.items():
        ends = np.maximum(bars[:, 1], bars[:, 0] + TICK * window.pixel * (bars[:, 1] > bars[:, 0]))
        corners = [
            np.array([(a, low), (b, low), (b, high), (a, high)])
            for a, b in zip(bars[:, 0], ends, strict=True)
        ]
        # White seams part one micro-batch from the next; they would hide thin messages.
        width = 0.4 if kind in seams else 0.0
        axes.add_collection(
            PolyCollection(
                corners, facecolors=colours[kind], edgecolors="white", linewidths=width, label=kind
            )
        )
    return False


def shares_of_pixels(bars: Floats, window: Window) -> Floats:
    """The share of each pixel's time that bars take, which may overlap."""
    if not len(bars):
        return np.zeros(window.pixels)
    starts, ends = bars[:, 0], np.maximum.accumulate(bars[:, 1])
    starts = np.maximum(starts, np.concatenate(([-np.inf], ends[:-1])))
    points = np.stack((starts, np.maximum(starts, ends)), axis=1).ravel()
    busy = np.cumsum(np.diff(points, prepend=points[0]) * (np.arange(len(points)) % 2))
    edges = np.linspace(window.start, window.end, window.pixels + 1)
    return np.diff(np.interp(edges, points, busy)) / window.pixel


def _draw_shares(axes: Axes, lane: Lane, window: Window, colours: Mapping[str, str]) -> None:
    """Each pixel in the mixture of what happens about it, with white for nothing."""
    from matplotlib.colors import to_rgb

    around = _period(lane.bars.values(), window)
    pixels, taken = np.zeros((window.pixels, 3)), np.zeros(window.pixels)
    for kind, bars in lane.bars.items():
        share = _smooth(shares_of_pixels(bars, window), around)
        pixels += share[:, None] * np.array(to_rgb(colours[kind]))
        taken += share
    over = np.maximum(1.0, taken)
    pixels = pixels / over[:, None] + np.maximum(0.0, 1.0 - taken)[:, None]
    axes.imshow(
        pixels[None].clip(0.0, 1.0),
        extent=(window.start, window.end, lane.top + lane.height, lane.top),
        aspect="auto",
        interpolation="nearest",
    )


def _period(bars: Iterable[Floats], window: Window) -> int:
    """Pixels after which bars repeat, uneven: a mean over them shows no pattern."""
    gaps = [np.median(np.diff(own[:, 0])) for own in bars if len(own) > 1]
    pixels = max(gaps, default=0.0) / window.pixel
    return 2 * round(min(pixels, window.pixels / 60) / 2) + 1


def _smooth(values: Floats, around: int) -> Floats:
    kernel = np.ones(around)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
