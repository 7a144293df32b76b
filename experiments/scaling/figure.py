"""The picture of a scaling study: throughput, efficiency, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from parplan.experiments.scaling.machines import AS_IT_IS
from parplan.experiments.scaling.study import GROUPS, ScalePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "compute": "#56b4e9",
    "recomputation": "#0072b2",
    "bubble": "#a6a6a6",
    "exposed tensor-parallel": "#009e73",
    "exposed data-parallel": "#cc79a7",
    "optimizer": "#d55e00",
    "software": "#f0e442",
}
LINES = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKS = ("o", "s", "^", "D", "v", "P", "X")

Curves = Mapping[str, Sequence[ScalePoint]]
"""Points by machine."""


def efficiency(points: Sequence[ScalePoint]) -> list[float]:
    """Tokens per second and accelerator, over those of the first size that fits.

    Not a number where nothing does.
    """
    each = [p.tokens_per_s / p.accelerators if p.tokens_per_s else float("nan") for p in points]
    first = next((value for value in each if value == value), float("nan"))
    return [value / first for value in each]


def figure(kinds: Mapping[str, Curves], title: str) -> Figure:
    """A column for strong, one for weak scaling; stacked: the step of the machine as it is."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(1.0 + 6.6 * len(kinds), 10.5), layout="constrained")
    grid = drawing.subplots(3, len(kinds), squeeze=False, height_ratios=[1, 0.8, 1.1])
    for column, (kind, curves) in enumerate(kinds.items()):
        sizes = [p.accelerators for p in curves[AS_IT_IS]]
        _throughput(grid[0, column], curves, sizes)
        _efficiency(grid[1, column], curves, sizes)
        _stack(grid[2, column], curves[AS_IT_IS])
        grid[0, column].set_title(_heading(kind, curves[AS_IT_IS]), loc="left", fontsize=10)
    drawing.suptitle(title, fontsize=11)
    handles, labels = grid[2, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return drawing


def _heading(kind: str, points: Sequence[ScalePoint]) -> str:
    first, last = points[0].global_batch, points[-1].global_batch
    batch = f"{first}" if first == last else f"{first} to {last}"
    return f"{kind} scaling, global batch {batch}"


def _throughput(axes: Axes, curves: Curves, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    base = next((p for p in curves[AS_IT_IS] if p.tokens_per_s), None)
    if base is not None:
        ideal = [(base.tokens_per_s or 0) * n / base.accelerators for n in sizes]
        axes.plot(sizes, ideal, color="#bbbbbb", linestyle="--", label="ideal")
    for (label, points), colour, mark in zip(curves.items(), LINES, MARKS, strict=False):
        rates = [p.tokens_per_s if p.tokens_per_s else float("nan") for p in points]
        axes.plot(sizes, rates, marker=mark, color=colour, label=label, markersize=5)
    _sizes(axes, sizes)
    axes.set_ylabel("tokens per second")
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    if not any(p.tokens_per_s for points in curves.values() for p in points):
        axes.text(0.5, 0.5, "nothing fits at any size", transform=axes.transAxes, ha="center")
        axes.set_yticks([])
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _efficiency(axes: Axes, curves: Curves, sizes: Sequence[int]) -> None:
    axes.axhline(100, color="#bbbbbb", linestyle="--")
    most = 100.0
    for (label, points), colour, mark in zip(curves.items(), LINES, MARKS, strict=False):
        values = [100 * value for value in efficiency(points)]
        axes.plot(sizes, values, marker=mark, color=colour, label=label, markersize=5)
        most = max(most, *(value for value in values if value == value), 0.0)
    _sizes(axes, sizes)
    axes.set_ylabel("efficiency against the\nsmallest size that fits [%]")
    axes.set_ylim(0, 1.06 * most)
    _plain(axes)


def _stack(axes: Axes, points: Sequence[ScalePoint]) -> None:
    bottoms = [0.0] * len(points)
    for name in GROUPS:
        heights = [100 * p.shares.get(name, 0.0) for p in points]
        axes.bar(range(len(points)), heights, 0.7, bottom=bottoms, color=COLOURS[name], label=name)
        bottoms = [b + h for b, h in zip(bottoms, heights, strict=True)]
    for place, p in enumerate(points):
        axes.text(place, 3, _short(p.plan) or "nothing\nfits", ha="center", va="bottom",
                  fontsize=7)  # fmt: skip
    axes.set_xticks(range(len(points)), [str(p.accelerators) for p in points])
    axes.set_xlabel("accelerators")
    axes.set_ylabel("share of the step [%]")
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)


def _short(plan: str) -> str:
    """A plan's label in lines that are as wide as a bar."""
    lines = [line for part in plan.split(", ") for line in wrap(part, 13)]
    return "\n".join(lines)


def _sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("accelerators")


def _plain(axes: Axes) -> None:
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
