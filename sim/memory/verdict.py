"""Whether a predicted peak fits on a device, with a margin for what is not known of it."""

from dataclasses import dataclass
from typing import Literal

from parplan.hardware.kernels.accelerator import Accelerator
from parplan.sim.memory.peak import GB

Verdict = Literal["fits", "may fail", "does not fit"]

GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyRange:
    """A value that differs between stacks: the expected one, and between what most lie."""

    low: float
    expected: float
    high: float


ALLOCATOR = LikelyRange(low=1.029, expected=1.048, high=1.069)
"""Bytes that torch's caching allocator reserves over those that are allocated: mean, and quantiles
of 10 and 90 %, of peak_reserved_gib over peak_memory_gib of the 43 runs of simumax-b200 that
report both (published_calibration.jsonl)."""

PREDICTION = LikelyRange(low=0.995, expected=1.0, high=1.057)
"""Measured over predicted peaks of the same runs: quantiles of 10 and 90 %."""

RESERVE_BYTES = LikelyRange(low=0.5 * GIB, expected=1.5 * GIB, high=2.5 * GIB)
"""Of a device, what no tensor can have: the context of the driver with its modules (0.4 to 0.8 GiB
on present GPUs) and the buffers of NCCL (some 0.1 to 0.4 GiB a communicator, of which a plan in
several dimensions has three to five): assumed."""

HOST = "cpu"
"""The accelerator of which nothing is reserved."""


def reserve_of(accelerator: Accelerator) -> LikelyRange:
    """Bytes of a device that no tensor can have."""
    if accelerator.name == HOST:
        return LikelyRange(low=0.0, expected=0.0, high=0.0)
    return RESERVE_BYTES


def is_expected_to_fit(peak_bytes: float, accelerator: Accelerator) -> bool:
    """Whether the allocated bytes fit, by what is expected of allocator and reserve."""
    limit = accelerator.memory_bytes - reserve_of(accelerator).expected
    return ALLOCATOR.expected * peak_bytes <= limit


def verdict_on(peak_bytes: float, accelerator: Accelerator) -> Verdict:
    """Whether a predicted peak of allocated bytes fits on a device.

    It fits, or does not, if it would with the least and the most that allocator, reserve and the
    error of the prediction take; in between it may fail.
    """
    memory, reserve = accelerator.memory_bytes, reserve_of(accelerator)
    if ALLOCATOR.high * PREDICTION.high * peak_bytes <= memory - reserve.high:
        return "fits"
    if ALLOCATOR.low * PREDICTION.low * peak_bytes > memory - reserve.low:
        return "does not fit"
    return "may fail"


def share_words(peak_bytes: float, accelerator: Accelerator) -> str:
    """`36.1 GB per device (45%)`."""
    return f"{peak_bytes / GB:.1f} GB per device ({peak_bytes / accelerator.memory_bytes:.0%})"
