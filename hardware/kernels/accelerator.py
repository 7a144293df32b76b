"""Accelerators: rates, memory and links."""

import dataclasses
from dataclasses import dataclass

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.kernels.efficiency import KernelEfficiency
from parplan.hardware.kernels.memory_efficiency import MemoryEfficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseRates:
    """Peak dense matrix rates by data type, FLOP/s; None where the device has no such mode."""

    fp32: float | None = None
    tf32: float | None = None
    fp16: float | None = None
    bf16: float | None = None
    fp8: float | None = None
    fp4: float | None = None
    int8: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            rate = getattr(self, field.name)
            if rate is not None and rate <= 0:
                raise ParplanError(f"{field.name}: a peak rate must be positive, got {rate}")

    def of(self, dtype: str) -> float:
        """The peak rate for `dtype` in FLOP/s; raises `ParplanError` when the device has none."""
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if dtype not in known:
            raise unknown_name("data type", dtype, known)
        rate: float | None = known[dtype]
        if rate is None:
            have = [name for name, value in known.items() if value is not None]
            raise ParplanError(f"no {dtype} rate on this accelerator; it has {', '.join(have)}")
        return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device as the program sees it (for a two-die package: one die)."""

    name: str
    peak_flop_per_s: DenseRates
    memory_bytes: int
    hbm_bytes_per_s: float
    gemm_efficiency: float
    """Share of the peak rate that a large matrix product reaches."""
    hbm_efficiency: float
    """Share of the memory bandwidth that a long streaming kernel reaches."""
    kernel_launch_s: float
    """Time that every kernel takes at least."""
    num_processors: int = 1
    """Streaming multiprocessors, compute units or cores that tiles are spread over."""
    synchronous_attention_share: float = 1.0
    """Share of the peak rate that flash attention without asynchronous units reaches at most."""
    host_bytes_per_s: float | None = None
    """To the memory of the host and, at the same time, from it (PCIe); None: not known."""
    host_memory_bytes_per_s: float = 51.2e9
    """Share of one accelerator in the bandwidth of its host's memory. By default that of two
    sockets with eight channels of DDR4-3200 (25.6 GB/s each) for eight accelerators."""
    kernels: KernelEfficiency | None = None
    """What keeps kernels from the roofline; None: nothing but the two shares above."""
    memory: MemoryEfficiency | None = None
    """Shares of the bandwidth that kernels bound by memory reach, by what they compute; None: all
    of them reach `hbm_efficiency`."""
    board_power_w: float | None = None
    """Watts that it draws at most, its share of the host left out; None: not known."""

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "hbm_bytes_per_s", "num_processors"):
            if getattr(self, name) <= 0:
                raise ParplanError(f"{name}: must be positive, got {getattr(self, name)}")
        for name in ("gemm_efficiency", "hbm_efficiency", "synchronous_attention_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ParplanError(f"{name}: must be in (0, 1], got {getattr(self, name)}")
        for name in ("host_bytes_per_s", "host_memory_bytes_per_s"):
            rate = getattr(self, name)
            if rate is not None and rate <= 0:
                raise ParplanError(f"{name}: must be positive, got {rate}")
        if self.board_power_w is not None and self.board_power_w <= 0:
            raise ParplanError(f"board_power_w: must be positive, got {self.board_power_w}")
        if self.kernel_launch_s < 0:
            raise ParplanError(f"kernel_launch_s: must not be negative: {self.kernel_launch_s}")
