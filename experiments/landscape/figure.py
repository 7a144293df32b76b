"""The pictures of a landscape: heat maps, or lines, a panel for each value of a third field."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from parplan.experiments.landscape.axes import Axis
from parplan.experiments.landscape.cells import Cell
from parplan.experiments.landscape.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
BEST, MEMORY_LINE = "#d7191c", "#ffffff"
LOG_FROM = 20.0
"""Largest over smallest value from which colours are by logarithm."""
TEXT_UP_TO = 14
"""Columns and rows of a panel up to which cells have numbers in them."""
SHARES: dict[float, Literal[":", "-.", "--", "-"]] = {0.25: ":", 0.5: "-.", 0.75: "--", 1.0: "-"}
"""Of the memory that a plan may use: where lines of equal memory are, and their style."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """All cells, and what they are of."""

    x: Axis
    y: Axis | None
    third: Axis | None
    cells: Sequence[Cell]
    name: str
    """Of the metric in `Cell.metrics`."""
    metric: Metric
    title: str

    @property
    def best(self) -> Cell | None:
        """The cell with the best value; None where nothing fits."""
        known = [cell for cell in self.cells if cell.verdict == "fits"]
        sign = -1 if self.metric.more_is_better else 1
        return min(known, key=lambda cell: sign * cell.metrics[self.name], default=None)

    def shown(self, cell: Cell) -> float:
        """The metric of a cell that fits, in the unit of its label."""
        return self.metric.shown * cell.metrics[self.name]

    def at(self, x: Any, y: Any = None, third: Any = None) -> Cell | None:
        """The cell of these values; None if it is not there."""
        wanted = {self.x.name: x}
        wanted |= {self.y.name: y} if self.y is not None else {}
        wanted |= {self.third.name: third} if self.third is not None else {}
        return next((cell for cell in self.cells if dict(cell.values) == wanted), None)


def heat_maps(land: Landscape) -> Figure:
    """The metric by colour over two fields; yellow is best.

    Hatched: nothing fits in memory (the gigabytes that the smallest plan needs are written), or no
    plan has these values. Framed: the best cell of all. Lines: equal peak memory.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    assert land.y is not None
    thirds: Sequence[Any] = land.third.values if land.third is not None else (None,)
    columns = _columns(len(thirds), 3 if len(land.x.values) <= 6 else 2)
    rows = -(-len(thirds) // columns)
    width = max(4.2, 1.4 + 0.62 * len(land.x.values))
    height = max(3.2, 1.4 + 0.42 * len(land.y.values))
    figure = Figure(figsize=(1.3 + width * columns, 1.0 + height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    norm = _norm(land)
    colours = "viridis" if land.metric.more_is_better else "viridis_r"
    for place, axes in enumerate(panels.flat):
        if place >= len(thirds):
            axes.set_axis_off()
            continue
        _heat_map(axes, land, thirds[place], norm, colours)
    if norm is not None:
        scale = ScalarMappable(norm=norm, cmap=colours)
        bar = figure.colorbar(scale, ax=panels, label=land.metric.label, shrink=0.9)
        if isinstance(norm, LogNorm):
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(_title(land), fontsize=11)
    handles = _handles(land)
    columns = max(1, min(4, int(figure.get_figwidth() / 3.2)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8,
                  frameon=False)  # fmt: skip
    return figure


def _title(land: Landscape) -> str:
    return land.title if land.best is not None else f"{land.title}\nnothing fits in any cell"


def _norm(land: Landscape) -> Normalize | None:
    from matplotlib.colors import LogNorm, Normalize

    known = [land.shown(cell) for cell in land.cells if cell.verdict == "fits"]
    if not known:
        return None
    low, high = min(known), max(known)
    if low > 0 and high / low > LOG_FROM:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + max(abs(low), 1.0) * 1e-3)


def _heat_map(
    axes: Axes, land: Landscape, third: Any, norm: Normalize | None, colours: str
) -> None:
    assert land.y is not None
    shape = len(land.y.values), len(land.x.values)
    values, memory = np.full(shape, np.nan), np.full(shape, np.nan)
    small = max(shape) <= TEXT_UP_TO
    for row, y in enumerate(land.y.values):
        for column, x in enumerate(land.x.values):
            cell = land.at(x, y, third)
            if cell is None:
                continue
            if cell.memory_gb is not None and cell.limit_gb:
                memory[row, column] = cell.memory_gb / cell.limit_gb
            if cell.verdict == "fits":
                values[row, column] = land.shown(cell)
            else:
                _hatch(axes, row, column, cell, small)
    axes.imshow(
        np.ma.masked_invalid(values), norm=norm, cmap=colours, aspect="auto", origin="lower"
    )
    _contours(axes, memory)
    if small and norm is not None:
        _numbers(axes, values, norm, land.metric.more_is_better)
    best = land.best
    if best is not None and (land.third is None or best.values[land.third.name] == third):
        row, column = (axis.values.index(best.values[axis.name]) for axis in (land.y, land.x))
        frame = _frame(row, column, edgecolor=BEST, linewidth=2.5)
        frame.set_clip_on(False)
        axes.add_patch(frame)
    _label(axes, land, third)


def _ticks(axes: Axes, names: Sequence[str]) -> None:
    long = max(map(len, names)) > 8
    axes.set_xticks(range(len(names)), names, rotation=30 if long else 0,
                    ha="right" if long else "center", fontsize=9)  # fmt: skip


def _columns(count: int, most: int) -> int:
    """In how many columns so many panels stand, so that rows are full where they can be."""
    return min(count, 2 if count == 4 else most)


def _label(axes: Axes, land: Landscape, third: Any) -> None:
    assert land.y is not None
    names = [land.x.text(value) for value in land.x.values]
    _ticks(axes, names)
    axes.set_yticks(range(len(land.y.values)), [land.y.text(value) for value in land.y.values],
                    fontsize=9)  # fmt: skip
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(-0.5, len(land.y.values) - 0.5)
    axes.set_xlabel(land.x.label)
    axes.set_ylabel(land.y.label)
    if land.third is not None:
        axes.set_title(f"{land.third.label}: {land.third.text(third)}", fontsize=10)


def _hatch(axes: Axes, row: int, column: int, cell: Cell, small: bool) -> None:
    from matplotlib.patches import Rectangle

    memory = cell.verdict == "does not fit"
    axes.add_patch(
        Rectangle(
            (column - 0.5, row - 0.5), 1, 1,
            facecolor="#f0f0f0" if memory else "white",
            edgecolor="#b0b0b0", hatch="///" if memory else "..", linewidth=0,
        )
    )  # fmt: skip
    if memory and small:
        behind = {"facecolor": "#f0f0f0", "edgecolor": "none", "pad": 1}
        axes.text(column, row, f"{cell.memory_gb:.0f} GB", ha="center", va="center", fontsize=8,
                  color="#555555", bbox=behind)  # fmt: skip


def _frame(row: int, column: int, *, edgecolor: str, linewidth: float) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=edgecolor,
                     linewidth=linewidth, zorder=5)  # fmt: skip


def _numbers(axes: Axes, values: Floats, norm: Normalize, more_is_better: bool) -> None:
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            share = float(norm(value))
            dark = share < 0.5 if more_is_better else share > 0.5
            axes.text(column, row, _written(value), ha="center", va="center", fontsize=8,
                      color="white" if dark else "black")  # fmt: skip


def _written(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _contours(axes: Axes, memory: Floats) -> None:
    """Lines of equal memory, as shares of what a plan may use: between cells on both sides."""
    from matplotlib.collections import LineCollection

    for share, style in SHARES.items():
        above = np.where(np.isfinite(memory), memory > share, np.nan)
        lines = [
            *(((j + 0.5, i - 0.5), (j + 0.5, i + 0.5)) for i, j in _jumps(above)),
            *(((j - 0.5, i + 0.5), (j + 0.5, i + 0.5)) for j, i in _jumps(above.T)),
        ]
        drawn = LineCollection(lines, colors="black", linewidths=1.6, linestyles=style, zorder=4)
        axes.add_collection(drawn)


def _jumps(above: Floats) -> Iterator[tuple[int, int]]:
    """The places of a table from which the next one in its row differs; both are known."""
    for row, column in zip(*np.nonzero(np.abs(np.diff(above, axis=1)) == 1), strict=True):
        yield int(row), int(column)


def _handles(land: Landscape) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found: list[Artist] = []
    verdicts = {cell.verdict for cell in land.cells}
    if "fits" in verdicts:
        found.append(Patch(fill=False, edgecolor=BEST, linewidth=2.5, label="best of all"))
    if "does not fit" in verdicts:
        found.append(Patch(facecolor="#f0f0f0", edgecolor="#b0b0b0", hatch="///",
                           label="does not fit (least memory that is needed)"))  # fmt: skip
    if "no such plan" in verdicts:
        found.append(Patch(facecolor="white", edgecolor="#b0b0b0", hatch="..",
                           label=_why_none(land)))  # fmt: skip
    shares = [c.memory_gb / c.limit_gb for c in land.cells if c.memory_gb and c.limit_gb]
    for share, style in SHARES.items():
        if shares and min(shares) <= share < max(shares):
            label = f"peak memory {share:.0%} of the limit"
            found.append(Line2D([], [], color="black", linestyle=style, label=label))
    return found


def _why_none(land: Landscape) -> str:
    """The most frequent reason why there is no plan."""
    reasons = Counter(c.reason for c in land.cells if c.verdict == "no such plan")
    (reason, count), *others = reasons.most_common()
    if reason.startswith("no plan for"):
        return "no plan has these values together"
    short = reason if len(reason) <= 60 else f"{reason[:57]}..."
    return f"{short} ({count} of {sum(reasons.values())})" if others else short


def slices(land: Landscape) -> Figure:
    """The metric as lines over the first field: one for each value of the second.

    Star: the best of all. Below, where there is one field: peak memory and its limit. Where a line
    has no point, nothing is possible.
    """
    from matplotlib.figure import Figure

    thirds: Sequence[Any] = land.third.values if land.third is not None else (None,)
    columns = _columns(len(thirds), 3)
    rows = -(-len(thirds) // columns)
    single = land.y is None and land.third is None
    if single:
        figure = Figure(figsize=(8.0, 6.0), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        _memory_lines(bottom, land)
        panels = [top]
    else:
        figure = Figure(figsize=(0.8 + 5.0 * columns, 0.8 + 3.8 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        panels = list(grid.flat)
    for place, axes in enumerate(panels):
        if place >= len(thirds):
            axes.set_axis_off()
            continue
        _lines(axes, land, thirds[place])
        if not single:
            axes.set_xlabel(land.x.label)
    if land.y is not None:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8,
                      title="no point: nothing fits", title_fontsize=8)  # fmt: skip
    figure.suptitle(_title(land), fontsize=11)
    return figure


def _lines(axes: Axes, land: Landscape, third: Any) -> None:
    ys: Sequence[Any] = land.y.values if land.y is not None else (None,)
    for number, y in enumerate(ys):
        cells = [land.at(x, y, third) for x in land.x.values]
        values = [
            land.shown(cell) if cell is not None and cell.verdict == "fits" else math.nan
            for cell in cells
        ]
        label = f"{land.y.label} {land.y.text(y)}" if land.y is not None else None
        colour = COLOURS[number % len(COLOURS)]
        ordered = not isinstance(land.x.values[0], str)
        style = ("-", "--", ":")[number // len(COLOURS) % 3] if ordered else ""
        axes.plot(range(len(values)), values, "o", linestyle=style, color=colour, label=label,
                  markersize=5, markerfacecolor="white")  # fmt: skip
        _mark_best(axes, land, cells)
    _ticks(axes, [land.x.text(value) for value in land.x.values])
    axes.set_ylabel(land.metric.label)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if land.best is None:
        axes.text(0.5, 0.5, "nothing fits: reasons in landscape.csv", transform=axes.transAxes,
                  ha="center", va="center")  # fmt: skip
    if land.third is not None:
        axes.set_title(f"{land.third.label}: {land.third.text(third)}", fontsize=10)


def _mark_best(axes: Axes, land: Landscape, cells: Sequence[Cell | None]) -> None:
    best = land.best
    if best is not None and best in cells:
        axes.plot([cells.index(best)], [land.shown(best)], "*", color=BEST, markersize=13,
                  zorder=5)  # fmt: skip


def _memory_lines(axes: Axes, land: Landscape) -> None:
    cells = [land.at(x) for x in land.x.values]
    held = [cell.memory_gb if cell and cell.memory_gb else math.nan for cell in cells]
    limits = [cell.limit_gb if cell and cell.limit_gb else math.nan for cell in cells]
    axes.plot(range(len(held)), held, "o-", color="#555555", markersize=4, label="peak memory")
    axes.plot(range(len(held)), limits, color=BEST, linewidth=1.2, label="what a plan may use")
    for place, cell in enumerate(cells):
        if cell is not None and cell.verdict != "fits":
            hatch = "///" if cell.verdict == "does not fit" else ".."
            axes.axvspan(place - 0.5, place + 0.5, facecolor="none", edgecolor="#b0b0b0",
                         hatch=hatch, linewidth=0)  # fmt: skip
    axes.set_ylim(0, None)
    axes.set_xlabel(land.x.label)
    axes.set_ylabel("memory [GB]")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
