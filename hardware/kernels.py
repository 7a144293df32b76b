"""How long kernels take: a roofline (Williams et al. 2009) of peak rate and memory bandwidth."""

from parplan.hardware.accelerator import Accelerator

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1}


def gemm_s(accelerator: Accelerator, m: int, n: int, k: int, dtype: str) -> float:
    """Seconds of the product of an m x k and a k x n matrix."""
    rate = accelerator.peak_flop_per_s.of(dtype) * accelerator.gemm_efficiency
    num_bytes = BYTES[dtype] * (m * k + k * n + m * n)
    memory_s = num_bytes / (accelerator.hbm_bytes_per_s * accelerator.hbm_efficiency)
    return max(2.0 * m * n * k / rate, memory_s, accelerator.kernel_launch_s)


def memory_bound_s(accelerator: Accelerator, num_bytes: float) -> float:
    """Seconds of a kernel that reads and writes `num_bytes` in all and computes little."""
    memory_s = num_bytes / (accelerator.hbm_bytes_per_s * accelerator.hbm_efficiency)
    return max(memory_s, accelerator.kernel_launch_s)
