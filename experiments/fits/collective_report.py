"""Report of a fit of collectives: errors, figure, and file of constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from parplan.experiments.fits.collective_data import Sweep
from parplan.experiments.fits.collective_fit import BLOCKS, Constants, predicted_s, relative_errors
from parplan.hardware.collectives.times import bus_factor
from parplan.hardware.network.collective_efficiency import (
    PLAIN,
    CollectiveEfficiency,
    EfficiencyTable,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = ("fit", "held out", "interpolated", "transfer")
MIB = 2**20
DIGITS = 4

HEADER = """\
# What collectives reach on each class of links: see collective_efficiency.py for the constants.
# Written by `parplan hardware fit-collectives --write FILE`; `source` names the sweeps of
# experiments/papers/collectives.jsonl that were fitted. `fabrics` and `gb_per_s_per_direction` say
# which tiers of a cluster a class is for, and are kept as they are. Kinds of fabric that no class
# lists have no published sweep and take plain latency and bandwidth.
"""


def error_rows(sweeps: Sequence[Sweep], constants: Constants) -> list[dict[str, Any]]:
    """One row per measured size: what was measured, what is predicted."""
    rows = []
    for sweep in sweeps:
        times = zip(sweep.num_bytes, sweep.seconds, predicted_s(sweep, constants), strict=True)
        for num_bytes, seconds, predicted in times:
            rows.append(
                {
                    "id": sweep.id,
                    "part": sweep.part,
                    "class": sweep.link_class,
                    "hardware": sweep.hardware,
                    "op": sweep.op,
                    "num_ranks": sweep.group.num_ranks,
                    "num_nodes": sweep.group.num_nodes,
                    "num_bytes": int(num_bytes),
                    "measured_s": seconds,
                    "predicted_s": float(predicted),
                    "error": float(predicted) / seconds - 1,
                }
            )
    return rows


def median_error(
    sweeps: Iterable[Sweep], constants: Constants, *, long: bool
) -> tuple[float | None, int]:
    """Median absolute relative error of time, of sizes from 1 MiB on or below; and of how many."""
    errors = [
        relative_errors(sweep, constants)[(np.array(sweep.num_bytes) >= MIB) == long]
        for sweep in sweeps
    ]
    all_errors = np.concatenate(errors) if errors else np.array([])
    return (float(np.median(all_errors)) if len(all_errors) else None), len(all_errors)


def error_table(sweeps: Sequence[Sweep], constants: Constants) -> list[tuple[str, ...]]:
    """Median errors per part and hardware, and of each part as a whole."""
    rows: list[tuple[str, ...]] = [
        ("part", "links", "hardware", "sweeps", "< 1 MiB", "sizes", ">= 1 MiB", "sizes")
    ]
    for part in PARTS:
        of_part = [sweep for sweep in sweeps if sweep.part == part]
        groups = sorted({(sweep.link_class, sweep.hardware) for sweep in of_part})
        for cls, hardware in groups:
            own = [s for s in of_part if (s.link_class, s.hardware) == (cls, hardware)]
            rows.append((part, cls, _short(hardware), *_cells(own, constants)))
        if of_part:
            rows.append((part, "all", "", *_cells(of_part, constants)))
    return rows


def _cells(sweeps: Sequence[Sweep], constants: Constants) -> tuple[str, ...]:
    cells = [f"{len(sweeps)}"]
    for long in (False, True):
        error, count = median_error(sweeps, constants, long=long)
        cells += ["-" if error is None else f"{error:.1%}", f"{count}"]
    return tuple(cells)


def _short(hardware: str) -> str:
    return hardware if len(hardware) <= 44 else hardware[:41] + "..."


def efficiency_toml(
    sweeps: Sequence[Sweep], constants: Constants, classes: Mapping[str, EfficiencyTable]
) -> str:
    """collective_efficiency.toml with `constants`; classes that were not fitted stay."""
    parts = [HEADER]
    for name, table in classes.items():
        fitted = constants.classes.get(name)
        ids = sorted({s.id for s in sweeps if s.part == "fit" and s.link_class == name})
        known = [b.fixed_source for b in BLOCKS if name in b.free and b.fixed_source]
        source = "; ".join([f"fitted to {', '.join(ids)}", *known]) if fitted else table.source
        fabrics = ", ".join(f'"{kind}"' for kind in table.fabrics)
        lines = [
            f"[{name}]",
            f"fabrics = [{fabrics}]",
            f"gb_per_s_per_direction = {table.gb_per_s_per_direction:g}",
            f'source = "{source}"',
            f"[{name}.constants]",
            *_constant_lines(fitted or table.constants),
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _constant_lines(constants: CollectiveEfficiency) -> list[str]:
    """Constants that differ from the defaults."""
    default = asdict(PLAIN)
    return [
        f"{name} = {rounded(value)!r}"
        for name, value in asdict(constants).items()
        if value is not None and value != default[name]
    ]


def rounded(value: float) -> float:
    """Round to the digits that are written."""
    return float(f"{value:.{DIGITS}g}")


def bandwidth_figure(sweeps: Sequence[Sweep], constants: Constants) -> Figure:
    """Bus bandwidth over size, one panel per class of links and op with more than one measurement.

    Filled: fitted. Open: not seen by the fit. Lines (crosses for one size): the model. Colours: the
    number of ranks.
    """
    from matplotlib.figure import Figure

    sizes = Counter((sweep.link_class, sweep.op) for sweep in sweeps for _ in sweep.num_bytes)
    panels = sorted(panel for panel, count in sizes.items() if count > 1)
    columns = 4
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * lines + 0.4), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax, (cls, op) in zip(axes, panels, strict=False):
        own = [s for s in sweeps if (s.link_class, s.op) == (cls, op)]
        _draw_panel(ax, own, constants)
        ax.set_title(f"{cls}: {op.replace('_', '-')}", fontsize=10)
    figure.suptitle(
        "Bus bandwidth of collectives: measured (filled: fitted, open: not fitted), "
        "model (lines; crosses for a single size)",
        fontsize=11,
    )
    return figure


def _draw_panel(axes: Axes, sweeps: Sequence[Sweep], constants: Constants) -> None:
    counts = sorted({sweep.group.num_ranks for sweep in sweeps})
    for colour, n in zip((f"C{index}" for index in range(len(counts))), counts, strict=True):
        for sweep in sweeps:
            if sweep.group.num_ranks == n:
                _draw_sweep(axes, sweep, constants, colour)
        axes.plot([], [], color=colour, label=f"{n} ranks")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("size [bytes]")
    axes.set_ylabel("bus bandwidth [GB/s]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_sweep(axes: Axes, sweep: Sweep, constants: Constants, colour: str) -> None:
    factor = bus_factor(sweep.op, sweep.group.num_ranks) / 1e9
    sizes, fitted = np.array(sweep.num_bytes), sweep.part == "fit"
    axes.plot(
        sizes,
        factor * sizes / np.array(sweep.seconds),
        "o" if fitted else "s",
        markersize=3.5 if fitted else 5,
        color=colour,
        markerfacecolor=colour if fitted else "none",
    )
    if len(sizes) == 1:
        axes.plot(sizes, factor * sizes / predicted_s(sweep, constants), "x", color=colour)
        return
    dense = np.geomspace(sizes.min(), sizes.max(), 120)
    axes.plot(dense, factor * dense / predicted_s(_at(sweep, dense), constants), color=colour, lw=1)


def _at(sweep: Sweep, sizes: Iterable[float]) -> Sweep:
    sizes = tuple(float(size) for size in sizes)
    return replace(sweep, num_bytes=sizes, seconds=(0.0,) * len(sizes))
