"""Pictures of a profile. Each function returns a matplotlib `Figure` of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.estimates.profile import CollectiveOp, MeasuredKernel, Profile
from parplan.hardware.kernels.kernel import Attention, Kernel, MemoryBound
from parplan.hardware.machines.from_profile import (
    best_rates,
    cluster_of_profile,
    memory_bytes_per_s,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def figures(profile: Profile) -> dict[str, Figure]:
    """All pictures that the profile has data for, by name."""
    found = {"roofline": roofline(profile), "model": measured_against_model(profile)}
    if profile.collectives:
        found["bus-bandwidth"] = bus_bandwidth(profile)
    return found


def _by_kind(profile: Profile) -> dict[str, list[MeasuredKernel]]:
    kinds: dict[str, list[MeasuredKernel]] = {}
    for measured in profile.kernels:
        kinds.setdefault(_kind(measured.kernel), []).append(measured)
    return kinds


def _kind(kernel: Kernel) -> str:
    if isinstance(kernel, MemoryBound):
        return "copy" if kernel.family == "copy" else kernel.family
    name = "attention" if isinstance(kernel, Attention) else "matrix product"
    return f"{name}, {kernel.dtype}"


def roofline(profile: Profile) -> Figure:
    """Measured FLOP/s over FLOP per byte, below the best rates and the memory bandwidth.

    Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    kinds = {
        name: m for name, m in _by_kind(profile).items() if not isinstance(m[0].kernel, MemoryBound)
    }
    intensities = [1.0]
    for i, (name, found) in enumerate(kinds.items()):
        x = [m.kernel.flops / m.kernel.num_bytes for m in found]
        y = [m.kernel.flops / m.timing.seconds / 1e9 for m in found]
        intensities += x
        _scatter(axes, x, y, i, name)
    bandwidth = memory_bytes_per_s(profile) / 1e9
    ends = min(intensities) / 1.5, max(intensities) * 1.5
    for dtype, rate in best_rates(profile).items():
        line = np.geomspace(*ends, 200)
        axes.plot(line, np.minimum(line * bandwidth, rate / 1e9), color="grey", linewidth=1)
        axes.annotate(
            f"{dtype} {rate / 1e9:.3g}",
            (ends[1], rate / 1e9),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="dimgrey",
        )
    axes.set(xscale="log", yscale="log", xlim=ends)
    axes.set_xlabel("operations per byte of operands and result [FLOP/B]")
    axes.set_ylabel("rate of one process [GFLOP/s]")
    axes.set_title(f"{_title(profile)}: memory {bandwidth:.3g} GB/s", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def bus_bandwidth(profile: Profile) -> Figure:
    """Bus bandwidth over message size, a line per operation and number of ranks, with its noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[CollectiveOp, int], list[tuple[int, float, float]]] = {}
    for m in profile.collectives:
        rate = m.collective.bus_bytes / m.timing.seconds / 1e9
        key = (m.collective.op, m.collective.num_ranks)
        noise = rate * m.timing.spread_s / m.timing.seconds
        lines.setdefault(key, []).append((m.collective.num_bytes, rate, noise))
    several = len({ranks for op, ranks in lines if op != "send"}) > 1
    ops = list(dict.fromkeys(op for op, _ in lines))
    for (op, ranks), points in lines.items():
        sizes, rates, noises = (np.array(column) for column in zip(*sorted(points), strict=True))
        i = ops.index(op)
        axes.errorbar(
            sizes,
            rates,
            yerr=[np.minimum(noises, rates * 0.9), noises],
            marker=MARKERS[i],
            color=PALETTE[i],
            markersize=4,
            linewidth=1.2,
            elinewidth=0.7,
            capsize=2,
            alpha=0.4 + 0.6 * ranks / max(r for _, r in lines) if several else 1.0,
            label=f"{op}, {ranks} ranks" if several and op != "send" else op,
        )
    axes.set(yscale="log")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("size [bytes]")
    axes.set_ylabel("bus bandwidth [GB/s]")
    axes.set_title(f"{_title(profile)}, {profile.machine.backend}", fontsize=10)
    axes.grid(which="major", linewidth=0.3)
    axes.legend(fontsize=8)
    return figure


def measured_against_model(
    profile: Profile, model_s: Callable[[Kernel], float] | None = None
) -> Figure:
    """Seconds by `model_s` over those measured; by default the model of this machine's best rates.

    On the diagonal they are equal, between the dotted lines within a factor of two. Kernels of a
    data type that this machine has no rate of are left out.
    """
    from matplotlib.figure import Figure

    kinds = _by_kind(profile)
    if model_s is None:
        device = cluster_of_profile(profile).accelerator
        model_s = partial(kernel_s, device)
        known = {"", *best_rates(profile)}
        kinds = {n: f for n, f in kinds.items() if getattr(f[0].kernel, "dtype", "") in known}
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    every: list[float] = []
    for i, (name, found) in enumerate(kinds.items()):
        x = [m.timing.seconds for m in found]
        y = [model_s(m.kernel) for m in found]
        every += [*x, *y]
        off = float(np.exp(np.median(np.abs(np.log(np.array(y) / np.array(x))))))
        _scatter(axes, x, y, i, f"{name} (median factor {off:.3g})")
    ends = np.array([min(every) / 1.5, max(every) * 1.5])
    axes.plot(ends, ends, color="grey", linewidth=1)
    for factor in (0.5, 2.0):
        axes.plot(ends, ends * factor, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=tuple(ends), ylim=tuple(ends), aspect="equal")
    axes.set_xlabel("measured [s]")
    axes.set_ylabel("model [s]")
    axes.set_title(_title(profile), fontsize=10)
    axes.legend(fontsize=8)
    return figure


def _scatter(axes: Axes, x: Sequence[float], y: Sequence[float], i: int, label: str) -> None:
    axes.scatter(
        x,
        y,
        s=14,
        marker=MARKERS[i % len(MARKERS)],
        facecolors="none",
        edgecolors=PALETTE[i % len(PALETTE)],
        linewidths=0.9,
        label=label,
    )


def _title(profile: Profile) -> str:
    machine = profile.machine
    return f"{machine.device}, {machine.num_processes} processes at the same time"
