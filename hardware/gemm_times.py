"""How long matrix products take: tiles of the output on the processors of a device.

Tile and wave quantisation as NVIDIA's "Matrix Multiplication Background User's Guide" describes
them; splitting k as in Osama et al. 2023 (Stream-K, arXiv:2301.03598, section 3).
"""

import math

from parplan.hardware.accelerator import Accelerator
from parplan.hardware.kernel_efficiency import GemmEfficiency
from parplan.hardware.kernels import BYTES, Gemm

K_STEP = 64
"""Terms of k that a tile loads at a time."""
MAX_SPLIT = 8
GROUP_STREAMS = 4
"""Products of a group that run beside each other (streams of TransformerEngine's grouped GEMM)."""
SPLIT_BYTES = 8
"""Bytes for each value of the output and part of a split k: written and read in fp32."""


def throttled(rate: float, throttle: float, work_s: float, half_s: float) -> float:
    """`rate` of a kernel of `work_s` seconds, of which `throttle` is lost to long work."""
    return rate * (1 - throttle * work_s / (work_s + half_s))


def tiled_gemm_s(accelerator: Accelerator, constants: GemmEfficiency, kernel: Gemm) -> float:
    """Seconds of `kernel`; never less than its roofline.

    The best of several tiles is taken. One takes its loop over k, limited by the matrix unit or
    by the cache, its output and a prologue; waves of tiles follow each other:

        body = waves x (k x max(2 a b / rate, (a + b) bytes / cache) + output + prologue)

    for a x b tiles, and the time is the quadratic mean of body and memory traffic, and at least
    the roofline.
    """
    c, processors = constants, accelerator.num_processors
    peak = accelerator.peak_flop_per_s.of(kernel.dtype)
    memory = accelerator.hbm_bytes_per_s * accelerator.hbm_efficiency
    best_rate = peak * accelerator.gemm_efficiency
    layout = {"TN": 1.0, "NN": c.layout_nn, "NT": c.layout_nt}[kernel.transposed]
    loop = throttled(c.main_loop, c.throttle, kernel.flops / best_rate, c.throttle_s)
    rate = best_rate * layout * loop / processors
    best = min(_tiling_s(kernel, c, (a, b), rate, memory, processors) for a, b in c.tiles)
    total = c.fixed_s + best
    if kernel.grouped:
        total = max(total, kernel.batch * c.group_s)
    return max(total, kernel.flops / peak, kernel.num_bytes / accelerator.hbm_bytes_per_s)


def _tiling_s(
    kernel: Gemm,
    c: GemmEfficiency,
    tile: tuple[int, ...],
    rate: float,
    memory: float,
    processors: int,
) -> float:
    """Seconds with one size of tiles, k split in as many parts as serve best."""
    a, b = tile
    area = a * b / (c.tiles[0][0] * c.tiles[0][1])
    size = BYTES[kernel.dtype]
    bytes_per_s = memory * c.memory_share
    step = max(
        2 * a * b / (rate * area**c.small_tile),
        size * (a + b) * processors / (memory * c.cache_ratio),
    )
    once = c.prologue_s * area
    once += a * b * kernel.output_bytes * processors / (bytes_per_s * c.output_ratio)
    together = min(kernel.batch, GROUP_STREAMS) if kernel.grouped else kernel.batch
    tiles = together * -(-kernel.m // a) * -(-kernel.n // b)
    best, split = math.inf, 1
    while True:
        load = tiles * split / processors
        waves = max(1.0, load)
        waves += c.wave_quantisation * (math.ceil(load) - waves)
        body = (
            kernel.batch
            / together
            * waves
            * (-(-kernel.k // (K_STEP * split)) * K_STEP * step + once)
        )
        traffic = kernel.num_bytes
        if split > 1:
            traffic += SPLIT_BYTES * split * kernel.batch * kernel.m * kernel.n
        best = min(best, math.hypot(body, traffic / bytes_per_s))
        if tiles * split >= processors or split >= MAX_SPLIT:
            return best
        split *= 2
