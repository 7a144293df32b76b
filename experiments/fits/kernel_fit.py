"""Fitting the constants of the kernel time model to measurements.

Least squares on the logarithm of time, made robust by a soft L1 loss (a measured outlier pulls
with constant force), from several fixed starts, because tiles and waves make steps in the cost.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parplan.errors import ParplanError
from parplan.experiments.fits.microbench import Measurement
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.efficiency import (
    AttentionEfficiency,
    GemmEfficiency,
    KernelEfficiency,
)

TILES = ((256, 128), (128, 256), (128, 128), (64, 64))
ROWS = (64, 128, 256)
"""Rows of an attention tile that are tried."""
SOFT = 0.1
"""Relative error above which a measurement pulls with constant force."""
PULL = 0.01
"""Relative error that a constant costs which is a factor e from its start: what measurements do
not decide stays near a plausible value, also where the model is asked beyond them."""

Bounds = Mapping[str, tuple[float, float]]
Values = dict[str, float]

GEMM_BOUNDS: Bounds = {
    "main_loop": (0.5, 1.2),
    "throttle": (1e-3, 0.6),
    "throttle_s": (1e-6, 1e-2),
    "layout_nn": (0.7, 1.2),
    "layout_nt": (0.7, 1.2),
    "small_tile": (1e-3, 0.6),
    "wave_quantisation": (1e-2, 1.0),
    "prologue_s": (1e-8, 2e-5),
    "output_ratio": (0.1, 10.0),
    "cache_ratio": (1.0, 40.0),
    "memory_share": (0.2, 1.1),
    "fixed_s": (1e-7, 2e-5),
    "group_s": (1e-7, 1e-4),
}
GEMM_START: Values = {
    "main_loop": 1.05,
    "throttle": 0.2,
    "throttle_s": 1e-4,
    "layout_nn": 1.0,
    "layout_nt": 1.0,
    "small_tile": 0.2,
    "wave_quantisation": 0.9,
    "prologue_s": 1e-6,
    "output_ratio": 2.0,
    "cache_ratio": 5.0,
    "memory_share": 0.9,
    "fixed_s": 2e-6,
    "group_s": 5e-6,
}
ATTENTION_BOUNDS: Bounds = {
    "main_loop": (0.2, 1.2),
    "throttle": (1e-3, 0.6),
    "throttle_s": (1e-4, 1.0),
    "wide_head": (0.5, 1.2),
    "sharpness": (1.0, 16.0),
    "fixed_s": (1e-7, 5e-5),
}
ATTENTION_START: Values = {
    "main_loop": 0.75,
    "throttle": 0.01,
    "throttle_s": 1e-2,
    "wide_head": 0.9,
    "sharpness": 3.0,
    "fixed_s": 5e-6,
}
SOFTMAX_FEATURES = 28.0
"""Assumed: heads of 64 features reach 0.85 of the rate of 128 (recalled: FlashAttention-2,
arXiv:2307.08691, figures of its section 4.1); the data has no head below 128."""


def fitted(
    accelerator: Accelerator, measurements: Sequence[Measurement], source: str
) -> KernelEfficiency:
    """The constants with which `accelerator` comes closest to `measurements`.

    Raises `ParplanError` unless products and attention of both directions are among them.
    """
    for op in ("matmul", "sdp_fwd", "sdp_bwd"):
        if not any(m.op == op for m in measurements):
            raise ParplanError(f"{accelerator.name}: no row of {op!r} to fit; each one is needed")
    gemm = fit_gemm(accelerator, [m for m in measurements if "matmul" in m.op])
    forward, backward = (
        fit_attention(accelerator, [m for m in measurements if m.op == op])
        for op in ("sdp_fwd", "sdp_bwd")
    )
    return KernelEfficiency(
        source=source, gemm=gemm, attention_forward=forward, attention_backward=backward
    )


def with_gemm(accelerator: Accelerator, gemm: GemmEfficiency) -> Accelerator:
    """`accelerator` with these constants for its products."""
    dummy = AttentionEfficiency(rows=128, softmax_features=SOFTMAX_FEATURES, **ATTENTION_START)
    kernels = KernelEfficiency(
        source="", gemm=gemm, attention_forward=dummy, attention_backward=dummy
    )
    return dataclasses.replace(accelerator, kernels=kernels)


def fit_gemm(accelerator: Accelerator, measurements: Sequence[Measurement]) -> GemmEfficiency:
    """Constants of products from measured ones."""

    def device(values: Values) -> Accelerator:
        return with_gemm(accelerator, GemmEfficiency(tiles=TILES, **values))

    starts = [
        {**GEMM_START, "wave_quantisation": wave, "small_tile": small}
        for wave in (0.5, 0.95)
        for small in (0.02, 0.2, 0.45)
    ]
    _, values = min(
        (_least_squares(device, measurements, start, GEMM_BOUNDS) for start in starts),
        key=lambda result: result[0],
    )
    return GemmEfficiency(tiles=TILES, **values)


def fit_attention(
    accelerator: Accelerator, measurements: Sequence[Measurement]
) -> AttentionEfficiency:
    """Constants of flash attention in one direction from measured kernels of that direction."""
    gemm = GemmEfficiency(tiles=TILES, **GEMM_START)
    results = []
    for rows in ROWS:

        def device(values: Values, rows: int = rows) -> Accelerator:
            constants = _attention(rows, values)
            kernels = KernelEfficiency(
                source="", gemm=gemm, attention_forward=constants, attention_backward=constants
            )
            return dataclasses.replace(accelerator, kernels=kernels)

        cost, values = _least_squares(device, measurements, ATTENTION_START, ATTENTION_BOUNDS)
        results.append((cost, _attention(rows, values)))
    return min(results, key=lambda result: result[0])[1]


def _attention(rows: int, values: Values) -> AttentionEfficiency:
    return AttentionEfficiency(rows=rows, softmax_features=SOFTMAX_FEATURES, **values)


def _least_squares(
    device: Callable[[Values], Accelerator],
    measurements: Sequence[Measurement],
    start: Values,
    bounds: Bounds,
) -> tuple[float, Values]:
    """The cost and the values of a local minimum; all of them are sought as logarithms."""
    from scipy.optimize import least_squares

    measured = np.array([m.seconds for m in measurements])

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        accelerator = device(_values(logs, bounds))
        predicted = np.array([kernel_s(accelerator, m.kernel) for m in measurements])
        return np.append(np.log(predicted / measured), PULL * (logs - started))

    low, high = np.log(np.array(list(bounds.values()))).T
    started = np.log([start[name] for name in bounds])
    inside = np.clip(started, low + 1e-3, high - 1e-3)
    result: Any = least_squares(
        residuals,
        inside,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=SOFT,
        x_scale=0.1,
        diff_step=np.full(len(inside), 3e-3),
        max_nfev=40,
    )
    return float(result.cost), _values(result.x, bounds)


def _values(logs: NDArray[np.float64], bounds: Bounds) -> Values:
    return {name: float(value) for name, value in zip(bounds, np.exp(logs), strict=True)}


def rounded(efficiency: KernelEfficiency) -> KernelEfficiency:
    """The constants to four digits, as the file holds them."""

    def round_table(table: Any) -> Any:
        changes = {
            f.name: float(f"{getattr(table, f.name):.4g}")
            for f in dataclasses.fields(table)
            if isinstance(getattr(table, f.name), float)
        }
        return dataclasses.replace(table, **changes)

    return KernelEfficiency(
        source=efficiency.source,
        gemm=round_table(efficiency.gemm),
        attention_forward=round_table(efficiency.attention_forward),
        attention_backward=round_table(efficiency.attention_backward),
    )
