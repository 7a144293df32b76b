"""Report of a fit of the kernel time model: text, and the file to ship."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from parplan.experiments.fits.kernel_fit import fitted, rounded
from parplan.experiments.fits.kernel_neighbours import Judged, corrected
from parplan.experiments.fits.kernel_peaks import PEAK, SQUARE, peak_errors
from parplan.experiments.fits.microbench import DATA, Measurement, read_measurements
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.efficiency import KernelEfficiency
from parplan.hardware.machines.presets import accelerator_preset

HEADER = """\
# Constants of the kernel time model (parplan.hardware.kernels.efficiency says what each one means).
# Written by: parplan hardware fit-kernels --write hardware/kernels/kernel_efficiency.toml
# [accelerator.NAME]: fitted to measurements of it. [family.NAME]: what its other members take;
# families that are not here take [family.default]. No constants: a plain roofline.
"""
A100 = "a100-pcie-80gb"
FAMILIES: Mapping[str, tuple[str | None, str]] = {
    "nvidia-ampere": (A100, "assumed from A100 PCIe: the same chip or generation"),
    "nvidia-volta": (A100, "assumed from A100 PCIe: the same kind of processor"),
    "nvidia-hopper": (
        A100,
        "assumed from A100 PCIe: kernels as mature; a clock that long work lowers, as on B200, "
        "is not assumed",
    ),
    "nvidia-ada": (A100, "assumed from A100 PCIe: the same kind of processor"),
    "nvidia-blackwell": ("b200", "assumed from B200: the same chip or generation"),
    "amd-cdna2": (A100, "assumed from A100 PCIe: tiles on compute units in the same way"),
    "amd-cdna3": (A100, "assumed from A100 PCIe: tiles on compute units in the same way"),
    "amd-cdna4": (A100, "assumed from A100 PCIe: tiles on compute units in the same way"),
    "default": (None, "assumed: no measurement by shape, and no tiles on many processors"),
}
NEAR = "+ near shapes"
"""Use: held out, with the interpolated residuals of `kernel_neighbours`."""
OPS = ("matmul", "group_matmul", "sdp_fwd", "sdp_bwd")
GEMMS = ("matmul", "group_matmul")
COLUMNS = ("accelerator", "operation", "use", "rows", "median", "p90", "bias")


def fit_all(measurements: Sequence[Measurement]) -> dict[str, KernelEfficiency]:
    """The constants of every accelerator that is measured, from the rows not held out."""
    found = {}
    for name in dict.fromkeys(m.accelerator for m in measurements):
        used = [m for m in measurements if m.accelerator == name and not m.held_out]
        source = f"fitted to {len(used)} kernels measured with MooreThreads/SimuMax@4dcaae5"
        found[name] = rounded(fitted(accelerator_preset(name), used, source))
    return found


def errors(
    constants: Mapping[str, KernelEfficiency], measurements: Sequence[Measurement]
) -> list[Judged]:
    """Each measurement with the relative error of its predicted time."""
    devices: dict[str, Accelerator] = {
        name: dataclasses.replace(accelerator_preset(name), kernels=kernels)
        for name, kernels in constants.items()
    }
    return [(m, kernel_s(devices[m.accelerator], m.kernel) / m.seconds - 1) for m in measurements]


def toml_text(constants: Mapping[str, KernelEfficiency]) -> str:
    """The file of constants."""
    lines = [HEADER]
    for family, (table, source) in FAMILIES.items():
        lines.append(f"[family.{family}]")
        if table is not None:
            lines.append(f"constants = {json.dumps(table)}")
        lines += [f"source = {json.dumps(source)}", ""]
    for name, efficiency in constants.items():
        lines += [f"[accelerator.{name}]", f"source = {json.dumps(efficiency.source)}", ""]
        for part in ("gemm", "attention_forward", "attention_backward"):
            lines.append(f"[accelerator.{name}.{part}]")
            table_of = dataclasses.asdict(getattr(efficiency, part))
            lines += [f"{key} = {json.dumps(value)}" for key, value in table_of.items()]
            lines.append("")
    return "\n".join(lines)


def report(
    measurements: Sequence[Measurement], constants: Mapping[str, KernelEfficiency]
) -> list[tuple[str, ...]]:
    """Rows of a table: what, how it was used, median and 90th percentile of |error|, bias."""
    judged = errors(constants, measurements)
    groups = [("all", "products", [(m, e) for m, e in judged if m.op in GEMMS])]
    for name in constants:
        own = [(m, e) for m, e in judged if m.accelerator == name]
        groups.append((name, "products", [(m, e) for m, e in own if m.op in GEMMS]))
        groups += [(name, op, [(m, e) for m, e in own if m.op == op]) for op in _ops(own)]
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, op, members in groups:
        for held_out, use in ((False, "fitted"), (True, "held out")):
            rows += _row(name, op, use, [e for m, e in members if m.held_out == held_out])
    rows += _near_shapes(judged, constants)
    return rows + _other_accelerators(measurements, constants)


def _near_shapes(
    judged: Sequence[Judged], constants: Mapping[str, KernelEfficiency]
) -> list[tuple[str, ...]]:
    """Held-out products once the residuals of fitted products of near shape are taken off."""
    rows: list[tuple[str, ...]] = []
    everywhere: list[float] = []
    for name in constants:
        own = [(m, e) for m, e in judged if m.accelerator == name and m.op in GEMMS]
        known = [(m, e) for m, e in own if not m.held_out]
        asked = [(m, e) for m, e in own if m.held_out]
        if known and asked:
            after = corrected(known, asked)
            everywhere += after
            rows += _row(name, "products", NEAR, after)
    return _row("all", "products", NEAR, everywhere) + rows


def _other_accelerators(
    measurements: Sequence[Measurement], constants: Mapping[str, KernelEfficiency]
) -> list[tuple[str, ...]]:
    """Every accelerator, all rows, with the constants that were fitted on another one."""
    rows: list[tuple[str, ...]] = []
    for name in constants:
        for other in (c for c in constants if c != name):
            own = [m for m in measurements if m.accelerator == name]
            judged = errors({name: constants[other]}, own)
            use = f"as {other}"
            rows += _row(name, "products", use, [e for m, e in judged if m.op in GEMMS])
            for op in _ops(judged):
                rows += _row(name, op, use, [e for m, e in judged if m.op == op])
    return rows


def peak_rows(path: Path | None) -> list[tuple[str, ...]]:
    """Rows of the same table for products of accelerators that were not fitted."""
    found = peak_errors(path or DATA)
    best = [error for kind, _, error in found if kind == PEAK]
    squares = [error for kind, _, error in found if kind == SQUARE]
    unfitted = _row("13 accelerators", "best product", "not fitted", best)
    return unfitted + _row("half a tpu-v7x", "square", "not fitted", squares)


def _row(name: str, op: str, use: str, relative: Sequence[float]) -> list[tuple[str, ...]]:
    if not relative:
        return []
    median, ninety = np.quantile(np.abs(relative), (0.5, 0.9))
    bias = np.median(relative)
    return [(name, op, use, str(len(relative)), f"{median:.1%}", f"{ninety:.1%}", f"{bias:+.1%}")]


def _ops(judged: Sequence[Judged]) -> list[str]:
    return list(dict.fromkeys(m.op for m, _ in judged))


def fit_file(path: Path | None) -> tuple[list[Measurement], dict[str, KernelEfficiency]]:
    """The measurements of a file (by default the shipped one) and the constants they give."""
    measurements = read_measurements(path or DATA)
    return measurements, fit_all(measurements)
