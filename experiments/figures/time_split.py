"""The figure of `time_split.csv`: a bar for each plan, a colour for each cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from parplan.sim.analysis.time_split import PARTS, TimeSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    # Okabe and Ito's palette; what is waited for is grey, and the exchanges are greens.
    "compute": "#56b4e9",
    "recomputation": "#0072b2",
    "tensor exchange": "#009e73",
    "context exchange": "#5fc7a5",
    "expert exchange": "#00664b",
    "launch": "#e69f00",
    "software": "#f5cd79",
    "messages": "#f0e442",
    "warm-up": "#c4c4c4",
    "dependency": "#a6a6a6",
    "drain": "#888888",
    "end": "#dddddd",
    "gradient reduction": "#cc79a7",
    "parameter gather": "#8e4a70",
    "optimizer": "#d55e00",
}
"""By the names of `PARTS`."""

BUBBLE = " (bubble)"


def figure(splits: Mapping[str, TimeSplit]) -> Figure:
    """Seconds of each plan's step, stacked by cause; the chosen plan first, on top."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 2.2 + 0.45 * len(splits)), layout="constrained")
    axes = drawing.subplots()
    longest_s = max((found.step_s for found in splits.values()), default=0.0)
    scale, unit = (1.0, "s") if longest_s >= 1 else (1e3, "ms")
    lefts = [0.0] * len(splits)
    for part in PARTS:
        widths = [scale * found.seconds[part] for found in splits.values()]
        if max(widths, default=0.0) < 1e-4 * scale * longest_s:
            continue
        name = part + (BUBBLE if part in ("warm-up", "dependency", "drain", "end") else "")
        axes.barh(range(len(splits)), widths, left=lefts, color=COLOURS[part], label=name)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for row, found in enumerate(splits.values()):
        axes.annotate(
            f"{scale * found.step_s:.3g} {unit}",
            (scale * found.step_s, row), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(splits)), list(splits), fontsize=8)
    axes.set_ylim(len(splits) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * scale * longest_s or 1.0)
    axes.set_xlabel(f"time of a step, mean over the ranks [{unit}]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("chosen plan, and the fastest of each other kind", loc="left", fontsize=10)
    drawing.legend(loc="outside lower center", ncols=5, fontsize=8)
    return drawing
