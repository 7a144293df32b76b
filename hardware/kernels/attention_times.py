"""Attention times: flash attention by tiles of query rows, unfused attention by its kernels.

Flash attention: Dao 2023 (FlashAttention-2, arXiv:2307.08691, section 3.2): each tile of query
rows (backward: of keys) goes to one processor, and the causal mask makes the last tile of a
sequence about twice as long as the average one.
"""

import math

from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.efficiency import AttentionEfficiency
from parplan.hardware.kernels.gemm_times import throttled
from parplan.hardware.kernels.kernel import BYTES, Attention, Gemm, Kernel, Layout, MemoryBound

REFERENCE_HEAD = 128
"""Features of a head for which `softmax_features` changes nothing."""


def flash_attention_s(
    accelerator: Accelerator, constants: AttentionEfficiency, kernel: Attention
) -> float:
    """Seconds of fused attention; never less than its roofline.

    With L the time of the longest tile and A the average load of a processor it is
    (L^p + A^p)^(1/p) beyond a fixed time, p the sharpness.
    """
    c = constants
    peak = accelerator.peak_flop_per_s.of(kernel.dtype)
    best_rate = peak * accelerator.gemm_efficiency
    head = (kernel.head_size + kernel.value_features) / 2
    loop = throttled(c.main_loop, c.throttle, kernel.flops / best_rate, c.throttle_s)
    loop *= (REFERENCE_HEAD + c.softmax_features) / REFERENCE_HEAD
    loop *= head / (head + c.softmax_features)
    if max(kernel.head_size, kernel.value_features) > REFERENCE_HEAD:
        loop *= c.wide_head
    rate = best_rate * loop
    if kernel.synchronous:
        rate = min(rate, accelerator.synchronous_attention_share * peak)
    average_s = kernel.slowdown * kernel.flops / rate
    rows = kernel.query_len if kernel.direction == "forward" else kernel.key_len
    whole_s = average_s / kernel.computed_share * kernel.window_share
    tiles = kernel.batch * kernel.heads * rows / c.rows
    longest_s = whole_s * accelerator.num_processors / tiles
    both = math.pow(average_s, c.sharpness) + math.pow(longest_s, c.sharpness)
    total = c.fixed_s + math.pow(both, 1 / c.sharpness)
    return max(total, kernel.flops / peak, kernel.num_bytes / accelerator.hbm_bytes_per_s)


def unfused_attention(kernel: Attention) -> tuple[Kernel, ...]:
    """The kernels that unfused attention launches: batched products, and passes over the scores.

    Forward: scores, softmax (mask and scale fused into it), weighted values. Backward: for each of
    the two products the gradients of both operands, and the softmax's.
    """
    batch, q, k = kernel.batch * kernel.heads, kernel.query_len, kernel.key_len
    head, value = kernel.head_size, kernel.value_features

    def product(m: int, n: int, terms: int, layout: Layout) -> Gemm:
        return Gemm(m=m, n=n, k=terms, batch=batch, dtype=kernel.dtype, transposed=layout)

    scores_bytes, wide = float(BYTES[kernel.dtype] * batch * q * k), BYTES[kernel.dtype] == 4
    if kernel.direction == "forward":
        softmax = MemoryBound(
            num_bytes=2 * scores_bytes, family="softmax", provider="triton", wide=wide
        )
        return (product(q, k, head, "TN"), softmax, product(q, value, k, "NN"))
    softmax = MemoryBound(
        num_bytes=3 * scores_bytes,
        family="softmax",
        provider="triton",
        direction="backward",
        wide=wide,
    )
    of_values = (product(q, k, value, "TN"), product(k, value, q, "NT"))
    of_scores = (product(q, head, k, "NN"), product(k, head, q, "NT"))
    return (*of_values, softmax, *of_scores)
