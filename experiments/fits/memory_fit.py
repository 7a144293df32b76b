"""Fitting shares of the memory bandwidth to measured kernels that are bound by memory.

Of an operation the model has

    seconds = launch + forward / (B f w share) + backward / (B f w share')

with the bandwidth B of the data sheet, the shares of its family and provider, the factor f of
its accelerator's family and provider, and where its values have 32 bits the factor w of its
provider. Rows that the host of the benchmark limits are left out
(`memory_microbench.bound_by_host`): what the host takes is a constant of the training software.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from parplan.experiments.fits.memory_microbench import (
    DATA,
    MemoryMeasurement,
    bound_by_host,
    read_memory_measurements,
)
from parplan.hardware.machines.presets import accelerator_preset

GENERATION = {
    "a100": "nvidia-ampere",
    "rtx3090": "nvidia-ampere",
    "h100": "nvidia-hopper",
    "b200": "nvidia-blackwell",
    "rtx4090": "nvidia-ada",
}
"""The family of each accelerator that was measured."""
BASE = "nvidia-ampere"
"""The family whose factors are 1."""
SOFT = 0.15
"""Relative error above which a measurement pulls with constant force."""
PULL = 0.02
"""Relative error that a constant costs which is a factor e from its start."""
START_SHARE = 0.6
WIDE = ("torch", "triton")
"""Providers whose factor for values of 32 bits is fitted. A chain of kernels casts its values, and
what it moves is counted so."""

HEADER = """\
# Shares of the memory bandwidth that kernels bound by memory reach
# (parplan.hardware.kernels.memory_efficiency says what each one means).
# Written by: parplan hardware fit-kernels --write-memory hardware/kernels/memory_efficiency.toml
"""

Logs = NDArray[np.float64]


class MemoryFit:
    """The constants, by name, and the seconds that they give a row."""

    def __init__(self, rows: Sequence[MemoryMeasurement]) -> None:
        names: dict[tuple[str, ...], float] = {}
        for row in rows:
            for direction in ("forward", "backward"):
                if getattr(row, f"{direction}_bytes"):
                    names["share", row.family, row.provider, direction] = START_SHARE
            if GENERATION[row.accelerator] != BASE:
                names["factor", GENERATION[row.accelerator], row.provider] = 1.0
            if row.wide and row.provider in WIDE:
                names["wide", row.provider] = 1.0
        self.names = {name: at for at, name in enumerate(names)}
        self.start: Logs = np.log(np.array(list(names.values())))
        self.logs = self.start

    def columns(self, rows: Sequence[MemoryMeasurement]) -> Mapping[str, Any]:
        """What the seconds of `rows` are made of, one value each."""
        presets = {name: accelerator_preset(name) for name in {r.accelerator for r in rows}}
        devices = [presets[row.accelerator] for row in rows]
        one = len(self.names)
        return {
            "bandwidth": np.array([d.hbm_bytes_per_s for d in devices]),
            "launch": np.array([d.kernel_launch_s for d in devices]),
            "forward": np.array([r.forward_bytes for r in rows]),
            "backward": np.array([r.backward_bytes for r in rows]),
            **{
                f"share {direction}": np.array(
                    [self.names.get(("share", r.family, r.provider, direction), one) for r in rows]
                )
                for direction in ("forward", "backward")
            },
            "factor": np.array(
                [
                    self.names.get(("factor", GENERATION[r.accelerator], r.provider), one)
                    for r in rows
                ]
            ),
            "wide": np.array(
                [self.names.get(("wide", r.provider), one) if r.wide else one for r in rows]
            ),
        }

    def seconds(self, columns: Mapping[str, Any], logs: Logs) -> Logs:
        """Of each row; a constant that was not fitted is 1."""
        values = np.append(np.exp(logs), 1.0)
        rate = columns["bandwidth"] * values[columns["factor"]] * values[columns["wide"]]
        device: Logs = columns["launch"] + sum(
            columns[d] / (rate * values[columns[f"share {d}"]]) for d in ("forward", "backward")
        )
        return device

    def predict(self, rows: Sequence[MemoryMeasurement]) -> Logs:
        """Seconds of each row."""
        return self.seconds(self.columns(rows), self.logs)


def fit_memory(measurements: Sequence[MemoryMeasurement]) -> MemoryFit:
    """The constants that come closest to the rows that are not held out."""
    rows = [m for m in measurements if not m.held_out]
    fit = MemoryFit(rows)
    columns = fit.columns(rows)
    measured = np.log(np.array([row.seconds for row in rows]))

    def residuals(logs: Logs) -> Logs:
        return np.append(np.log(fit.seconds(columns, logs)) - measured, PULL * (logs - fit.start))

    result: Any = least_squares(residuals, fit.start, loss="soft_l1", f_scale=SOFT, max_nfev=200)
    fit.logs = result.x
    return fit


def memory_toml(fit: MemoryFit, measurements: Sequence[MemoryMeasurement]) -> str:
    """The file of constants."""
    values = {name: float(np.exp(fit.logs[at])) for name, at in fit.names.items()}
    used = sum(not m.held_out for m in measurements)
    source = f"fitted to {used} rows of Liger-Kernel's benchmark tables"
    lines = [HEADER + f"# {source} (experiments/papers/microbench_memory_bound.jsonl)."]
    pairs = sorted({name[1:3] for name in values if name[0] == "share"})
    for family, provider in pairs:
        lines += ["", f"[share.{family}.{provider}]"]
        for direction in ("forward", "backward"):
            found = values["share", family, provider, direction]
            lines.append(f"{direction} = {found:.3g}")
    lines += ["", "[wide]"]
    lines += [f"{n[1]} = {v:.3g}" for n, v in sorted(values.items()) if n[0] == "wide"]
    for generation in dict.fromkeys(GENERATION.values()):
        lines += ["", f"[accelerators.{json.dumps(generation)}]"]
        lines += [
            f"{name[2]} = {value:.3g}"
            for name, value in sorted(values.items())
            if name[:2] == ("factor", generation)
        ]
    return "\n".join(lines) + "\n"


def memory_report(
    fit: MemoryFit, measurements: Sequence[MemoryMeasurement]
) -> list[tuple[str, ...]]:
    """Rows of the table of `kernel_fit_report`.

    Fitted and held-out shapes, by family of operations and by accelerator.
    """
    errors = fit.predict(measurements) / np.array([m.seconds for m in measurements]) - 1
    groups: dict[tuple[str, str], list[tuple[MemoryMeasurement, float]]] = {}
    for m, error in zip(measurements, errors, strict=True):
        for group in (("all", "memory-bound"), ("all", m.family), (m.accelerator, "memory-bound")):
            groups.setdefault(group, []).append((m, float(error)))
    found: list[tuple[str, ...]] = []
    for (name, what), members in sorted(groups.items(), key=lambda item: item[0][0] != "all"):
        for held_out, use in ((False, "fitted"), (True, "held out")):
            own = [error for m, error in members if m.held_out == held_out]
            if own:
                median, ninety = np.quantile(np.abs(own), (0.5, 0.9))
                last = f"{median:.1%}", f"{ninety:.1%}", f"{np.median(own):+.1%}"
                found.append((name, what, use, str(len(own)), *last))
    return found


def fit_memory_file(path: Path | None) -> tuple[list[MemoryMeasurement], int, MemoryFit]:
    """Measurements of kernels from a file (by default the shipped one), and the constants.

    With how many more tell about the host alone.
    """
    measurements = read_memory_measurements(path or DATA)
    of_host = bound_by_host(measurements)
    kept = [m for m in measurements if m not in of_host]
    return kept, len(of_host), fit_memory(kept)
