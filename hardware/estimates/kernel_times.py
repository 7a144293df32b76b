"""Kernel times on an accelerator.

With fitted constants (`Accelerator.kernels`): tiles on processors, see `gemm_times` and
`attention_times`. Without: a roofline (Williams et al. 2009) of the best measured rate and the
memory bandwidth. Memory-bound kernels take the launch and their traffic one after the other, so
their bandwidth ramps up with their size.
"""

from parplan.hardware.estimates.estimate import Estimate, Measurements
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.attention_times import flash_attention_s, unfused_attention
from parplan.hardware.kernels.gemm_times import tiled_gemm_s
from parplan.hardware.kernels.kernel import Attention, Gemm, Kernel, MemoryBound


def estimate(accelerator: Accelerator, measured: Measurements | None, kernel: Kernel) -> Estimate:
    """Time of `kernel`: as measured, or else by the model of `accelerator`.

    Raises `ParplanError` for a data type of which neither knows a rate.
    """
    found = measured.kernel(kernel) if measured is not None else None
    if found is not None:
        return found
    return Estimate(seconds=kernel_s(accelerator, kernel), origin="modelled")


def kernel_s(accelerator: Accelerator, kernel: Kernel) -> float:
    """Seconds of one kernel on `accelerator`; raises `ParplanError` for a rate it does not have."""
    if isinstance(kernel, MemoryBound):
        return accelerator.kernel_launch_s + _memory_bound_s(accelerator, kernel)
    if isinstance(kernel, Attention):
        return _attention_s(accelerator, kernel)
    if accelerator.kernels is None:
        return _roofline_s(accelerator, kernel)
    constants = accelerator.kernels.gemm
    return max(tiled_gemm_s(accelerator, constants, kernel), accelerator.kernel_launch_s)


def _memory_bound_s(accelerator: Accelerator, kernel: MemoryBound) -> float:
    """At the share of the bandwidth that kernels of its kind reach, if any were measured."""
    share = accelerator.memory.share(kernel) if accelerator.memory is not None else None
    if share is None:
        return _memory_s(accelerator, kernel)
    return kernel.num_bytes / (accelerator.hbm_bytes_per_s * share)


def _attention_s(accelerator: Accelerator, kernel: Attention) -> float:
    if not kernel.flash:
        return sum(kernel_s(accelerator, part) for part in unfused_attention(kernel))
    if accelerator.kernels is None:
        return _roofline_s(accelerator, kernel)
    forward = kernel.direction == "forward"
    efficiency = accelerator.kernels
    constants = efficiency.attention_forward if forward else efficiency.attention_backward
    total = flash_attention_s(accelerator, constants, kernel)
    return max(total, accelerator.kernel_launch_s)


def _roofline_s(accelerator: Accelerator, kernel: Gemm | Attention) -> float:
    rate = accelerator.peak_flop_per_s.of(kernel.dtype) * accelerator.gemm_efficiency
    memory_s = _memory_s(accelerator, kernel)
    return max(kernel.flops / rate, memory_s, accelerator.kernel_launch_s)


def _memory_s(accelerator: Accelerator, kernel: Kernel) -> float:
    return kernel.num_bytes / (accelerator.hbm_bytes_per_s * accelerator.hbm_efficiency)
