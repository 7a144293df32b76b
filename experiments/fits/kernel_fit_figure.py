"""The figure of a fit of the kernel time model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parplan.experiments.fits.kernel_fit_report import OPS, errors
from parplan.experiments.fits.kernel_neighbours import Judged
from parplan.experiments.fits.microbench import Measurement
from parplan.hardware.kernels.efficiency import KernelEfficiency

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(
    measurements: Sequence[Measurement], constants: Mapping[str, KernelEfficiency]
) -> Figure:
    """Predicted seconds, and their ratio to the measured ones, over the measured ones.

    A column per accelerator; held-out rows are filled.
    """
    from matplotlib.figure import Figure

    judged = errors(constants, measurements)
    names = list(constants)
    drawing = Figure(figsize=(5.2 * len(names), 8.0), layout="constrained")
    grid = drawing.subplots(2, len(names), squeeze=False, height_ratios=(5, 3))
    for times, ratios, name in zip(*grid, names, strict=True):
        own = [(m, e) for m, e in judged if m.accelerator == name]
        measured = [m.seconds * 1e6 for m, _ in own]
        limits = np.array([min(measured) / 1.5, max(measured) * 1.5])
        for factor, color, style in ((1.0, "0.3", "-"), (0.8, "0.7", "--"), (1.2, "0.7", "--")):
            times.plot(limits, factor * limits, color=color, linewidth=0.8, linestyle=style)
            ratios.plot(limits, [factor] * 2, color=color, linewidth=0.8, linestyle=style)
        _scatter(times, own, ratio=False)
        _scatter(ratios, own, ratio=True)
        times.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
        times.set(title=f"{name} (dashed: 20 %)", xlabel="measured [us]", ylabel="predicted [us]")
        times.legend(fontsize="small", frameon=False)
        ratios.set(xscale="log", xlim=limits, xlabel="measured [us]")
        ratios.set(ylabel="predicted / measured [1]", ylim=(0.5, 1.6))
    return drawing


def _scatter(panel: Any, own: Sequence[Judged], ratio: bool) -> None:
    present = {m.op for m, _ in own}
    for index, op in ((i, op) for i, op in enumerate(OPS) if op in present):
        for held_out in (False, True):
            rows = [(m.seconds * 1e6, e) for m, e in own if (m.op, m.held_out) == (op, held_out)]
            panel.scatter(
                [time for time, _ in rows],
                [(1 if ratio else time) * (1 + error) for time, error in rows],
                s=14,
                edgecolors=f"C{index}",
                facecolors=f"C{index}" if held_out else "none",
                linewidths=0.7,
                label=f"{op}, held out" if held_out else op,
            )
