"""Common style of the figures of experiments: predicted values open, published ones filled."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

WRITTEN = FuncFormatter(lambda value, _: f"{value:g}")
"""Numbers of a logarithmic axis as they are written."""

PUBLISHED = {"marker": "o", "linestyle": "none", "markersize": 7}
PREDICTED = {"marker": "o", "linestyle": "-", "markersize": 5, "markerfacecolor": "white"}


def panels(count: int, width: float = 5.2, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)
    return figure, list(axes[0])


def curve(
    axes: Axes,
    x: Sequence[float],
    predicted: Sequence[float],
    published: Sequence[float | None] | None,
    label: str,
    colour: str,
) -> None:
    """One curve: predicted values joined, published ones as filled marks."""
    axes.plot(x, list(predicted), color=colour, label=f"{label}, predicted", **PREDICTED)  # type: ignore[arg-type]
    if published is not None:
        known = [(a, b) for a, b in zip(x, published, strict=True) if b is not None]
        axes.plot(*zip(*known, strict=True), color=colour, label=f"{label}, published", **PUBLISHED)  # type: ignore[arg-type]


def pairs(
    axes: Axes,
    labels: Sequence[str],
    predicted: Sequence[float],
    published: Sequence[float | None],
    ylabel: str,
) -> None:
    """Two bars for each label: published, then predicted."""
    places = range(len(labels))
    axes.bar([p - 0.2 for p in places], [v or 0.0 for v in published], 0.38,
             color="#999999", label="published")  # fmt: skip
    axes.bar([p + 0.2 for p in places], list(predicted), 0.38, color=COLOURS[0], label="predicted")
    axes.set_xticks(list(places), labels, fontsize=8)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize=8)
    plain(axes)


def plain(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def slanted(axes: Axes) -> None:
    """Labels of bars that are too long to stand side by side."""
    axes.set_xticks(axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()],
                    rotation=50, ha="right", rotation_mode="anchor", fontsize=8)  # fmt: skip


def sizes(axes: Axes, values: Sequence[float], label: str) -> None:
    """A logarithmic axis with a tick at each of the values, as they are written."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(label)


def scatter(axes: Axes, predicted: Sequence[float], published: Sequence[float], unit: str) -> None:
    """Predicted over published, with the diagonal and 10 % to both sides."""
    low = 0.8 * min(*predicted, *published)
    high = 1.25 * max(*predicted, *published)
    axes.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high],
                      color="#dddddd", label="within 10 %")  # fmt: skip
    axes.plot([low, high], [low, high], color="#666666", linewidth=0.8)
    axes.scatter(published, predicted, s=14, color=COLOURS[0], alpha=0.6, linewidths=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        # Within a decade or so also 2 and 5 have a tick.
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(WRITTEN)
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel(f"published [{unit}]")
    axes.set_ylabel(f"predicted [{unit}]")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
