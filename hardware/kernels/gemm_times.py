"""Matrix product times: output tiles scheduled on the processors of a device.

Tile and wave quantisation as NVIDIA's "Matrix Multiplication Background User's Guide" describes
them; splitting k as in Osama et al. 2023 (Stream-K, arXiv:2301.03598, section 3).
"""

import math
from collections.abc import Iterator

from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.efficiency import GemmEfficiency
from parplan.hardware.kernels.kernel import BYTES, Gemm

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

    The best of several tiles is taken. A tile of a x b values takes its loop over k, limited by
    the matrix unit or by the cache, its output and a prologue; waves of tiles follow each other:

        body = waves (k max(2 a b / rate, (a + b) bytes / cache) + output + prologue)

    and the time is the root of the sum of the squares of body and memory traffic.
    """
    c, processors = constants, accelerator.num_processors
    peak, flops, num_bytes = (
        accelerator.peak_flop_per_s.of(kernel.dtype),
        kernel.flops,
        kernel.num_bytes,
    )
    memory = accelerator.hbm_bytes_per_s * accelerator.hbm_efficiency
    best_rate = peak * accelerator.gemm_efficiency
    layout = {"TN": 1.0, "NN": c.layout_nn, "NT": c.layout_nt}[kernel.transposed]
    loop = throttled(c.main_loop, c.throttle, flops / best_rate, c.throttle_s)
    flop_s = processors / (best_rate * layout * loop)
    load_s = BYTES[kernel.dtype] * processors / (memory * c.cache_ratio)
    traffic_s = num_bytes / (memory * c.memory_share)
    write_s = kernel.output_bytes * processors / (memory * c.memory_share * c.output_ratio)
    part_s = SPLIT_BYTES * kernel.batch * kernel.m * kernel.n / (memory * c.memory_share)
    together = min(kernel.batch, GROUP_STREAMS) if kernel.grouped else kernel.batch
    largest = c.tiles[0][0] * c.tiles[0][1]
    best = math.inf
    for a, b in c.tiles:
        values = a * b
        step_s = max(2 * values * flop_s * (values / largest) ** -c.small_tile, (a + b) * load_s)
        once_s = c.prologue_s * values / largest + values * write_s
        tiles = together * -(-kernel.m // a) * -(-kernel.n // b)
        for split, body in _bodies(tiles, processors, kernel.k, step_s, once_s, c):
            parts_s = split * part_s if split > 1 else 0.0
            repeated = kernel.batch / together * body
            best = min(best, math.hypot(repeated, traffic_s + parts_s))
    total = c.fixed_s + best
    if kernel.grouped:
        total = max(total, kernel.batch * c.group_s)
    return max(total, flops / peak, num_bytes / accelerator.hbm_bytes_per_s)


def _bodies(
    tiles: int, processors: int, k: int, step_s: float, once_s: float, c: GemmEfficiency
) -> Iterator[tuple[int, float]]:
    """Seconds of all waves for each number of parts that k may be split in."""
    split = 1
    while True:
        load = tiles * split / processors
        waves = max(1.0, load)
        waves += c.wave_quantisation * (math.ceil(load) - waves)
        yield split, waves * (-(-k // (K_STEP * split)) * K_STEP * step_s + once_s)
        if tiles * split >= processors or split >= MAX_SPLIT:
            return
        split *= 2
