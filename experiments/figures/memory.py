"""Memory of the ranks over one step, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from parplan.sim.memory.over_time import MemoryOverTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GB = 1e9

# Okabe and Ito's palette, which colour-blind readers can tell apart.
LAYERS = {
    "parameters": "#0072b2",
    "gradients": "#e69f00",
    "optimizer": "#999999",
    "activations": "#56b4e9",
    "messages": "#009e73",
    "fragmentation": "#f0e442",
}

MAX_PANELS = 8
NEAR = 1.5
"""Times the highest peak, up to which the limit is drawn."""


def memory_figure(
    ranks: Sequence[MemoryOverTime], step_s: float, limit_bytes: float | None = None
) -> Figure:
    """A panel per pipeline rank: what its memory holds over the step, and where its peak is.

    Of more than eight ranks, eight evenly spaced ones. `limit_bytes` of a device, where given, is a
    line if a peak comes near it.
    """
    from matplotlib.figure import Figure

    places = np.unique(np.linspace(0, len(ranks) - 1, min(len(ranks), MAX_PANELS)).round())
    shown = [ranks[int(i)] for i in places]
    figure = Figure(figsize=(11, 1.2 + 1.5 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    scale, unit = (1.0, "s") if step_s >= 1 else (1e3, "ms")
    top_bytes = max(memory.peak_bytes for memory in shown)
    if limit_bytes is not None and top_bytes < limit_bytes < NEAR * top_bytes:
        top_bytes = limit_bytes
    for axes, memory in zip(panels, shown, strict=True):
        _draw(axes, memory, step_s, scale)
        title = f"rank {memory.rank}: peak {memory.peak_bytes / GB:.1f} GB"
        if limit_bytes is not None:
            axes.axhline(limit_bytes / GB, color="red", linewidth=1, linestyle="--")
            title += f" of {limit_bytes / GB:.1f} GB"
        axes.set_title(title, loc="left", fontsize=10)
    panels[0].set_ylim(0, 1.1 * top_bytes / GB or 1.0)
    panels[-1].set_xlabel(f"time [{unit}]")
    panels[-1].set_xlim(0, step_s * scale or 1.0)
    figure.supylabel("memory [GB]")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1)
    return figure


def _draw(axes: Axes, memory: MemoryOverTime, step_s: float, scale: float) -> None:
    made = memory.activation_bytes + memory.message_bytes
    ones = np.ones_like(made)
    heights = {
        "parameters": memory.state.parameter_bytes * ones,
        "gradients": memory.state.gradient_bytes * ones,
        "optimizer": memory.state.optimizer_bytes * ones,
        "activations": memory.activation_bytes,
        "messages": memory.message_bytes,
        "fragmentation": memory.fragmented_share * made,
    }
    times = np.append(memory.times_s, step_s) * scale
    below = np.zeros_like(times)
    for name, height in heights.items():
        if not height.any():
            continue
        above = below + np.append(height, height[-1]) / GB
        axes.fill_between(
            times, below, above, step="post", color=LAYERS[name], label=name, linewidth=0
        )
        below = above
    axes.plot(memory.peak_s * scale, memory.peak_bytes / GB, "kv", markersize=5)
