"""Products of accelerators that were not fitted: a check of the constants that they are given.

Rows of kind "gemm_peak (MAMF)" (stas00/ml-engineering) are the best of a long search over shapes.
Those in bf16 set `gemm_efficiency` of the presets, so the prediction can only be as fast or slower.
Rows of kind "gemm m=n=k" are square products on half a TPU v7x chip.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parplan._strict import parse_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.fits.microbench import DATA
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.kernels.kernel import Gemm
from parplan.hardware.machines.presets import accelerator_preset

PEAK, SQUARE = "gemm_peak (MAMF)", "gemm m=n=k"
PRESETS = {
    "AMD MI300X": "mi300x",
    "AMD MI325X": "mi325x",
    "AMD MI355X": "mi355x",
    "Intel Gaudi 2": "gaudi2",
    "Intel Gaudi 3": "gaudi3",
    "NVIDIA A100 PCIe": "a100-pcie-80gb",
    "NVIDIA A100 SXM": "a100-sxm-80gb",
    "NVIDIA B200 SXM": "b200",
    "NVIDIA B300 SXM": "b300",
    "NVIDIA GB200 SXM": "gb200",
    "NVIDIA GH200 SXM": "gh200",
    "NVIDIA H100 SXM": "h100-sxm",
    "NVIDIA H200 SXM": "h200",
}
HALF_TPU_V7X = Accelerator(
    # Recalled: Google Cloud documentation of TPU7x, 2307 TFLOP/s in bf16, 7.37 TB/s and 192 GB
    # per chip of two devices. Efficiency and launch: those of the other TPU presets.
    name="tpu-v7x-half",
    peak_flop_per_s=DenseRates(bf16=1153.5e12),
    memory_bytes=96 * 10**9,
    hbm_bytes_per_s=3.685e12,
    gemm_efficiency=0.85,
    hbm_efficiency=0.85,
    kernel_launch_s=2e-6,
)


def peak_errors(path: Path = DATA) -> list[tuple[str, str, float]]:
    """Kind, accelerator and shape, and relative error of the predicted time, of each row.

    Raises `ParplanError` naming file and line for one that is malformed.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        row = parse_json(line, f"{path}: line {number}")
        if row["kind"] in (PEAK, SQUARE):
            try:
                device, kernel = _product(row)
                seconds = kernel.flops / (row["achieved_tflops"] * 1e12)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ParplanError(f"{path}: line {number}: not a product ({error!r})") from None
            what = f"{device.name} {kernel.m}x{kernel.n}x{kernel.k} {kernel.dtype}"
            found.append((row["kind"], what, kernel_s(device, kernel) / seconds - 1))
    return found


def _product(row: Mapping[str, Any]) -> tuple[Accelerator, Gemm]:
    if row["kind"] == SQUARE:
        size = row["size"]
        return HALF_TPU_V7X, Gemm(m=size, n=size, k=size, dtype=row["dtype"])
    m, n, k = (int(size) for size in row["shape"].split("x"))
    device = accelerator_preset(PRESETS[row["accelerator"]])
    return device, Gemm(m=m, n=n, k=k, dtype=row["dtype"])
