"""How long kernels take: a roofline (Williams et al. 2009) of peak rate and memory bandwidth."""

from parplan.hardware.accelerator import Accelerator
from parplan.hardware.kernels import Gemm, Kernel, MemoryBound


def kernel_s(accelerator: Accelerator, kernel: Kernel) -> float:
    """Seconds of one kernel on `accelerator`; raises `ParplanError` for a rate it does not have."""
    memory_s = kernel.num_bytes / (accelerator.hbm_bytes_per_s * accelerator.hbm_efficiency)
    if isinstance(kernel, MemoryBound):
        return max(memory_s, accelerator.kernel_launch_s)
    rate = accelerator.peak_flop_per_s.of(kernel.dtype) * accelerator.gemm_efficiency
    return max(kernel.flops / rate, memory_s, accelerator.kernel_launch_s)


def gemm_s(accelerator: Accelerator, m: int, n: int, k: int, dtype: str) -> float:
    """Seconds of the product of an m x k and a k x n matrix."""
    return kernel_s(accelerator, Gemm(m=m, n=n, k=k, dtype=dtype))


def memory_bound_s(accelerator: Accelerator, num_bytes: float) -> float:
    """Seconds of a kernel that reads and writes `num_bytes` in all and computes little."""
    return kernel_s(accelerator, MemoryBound(num_bytes=num_bytes))
