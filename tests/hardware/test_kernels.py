"""Kernels count their operations and bytes; a product takes its roofline."""

import pytest

from parplan.errors import ParplanError
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.kernel import Attention, Gemm, MemoryBound
from parplan.hardware.machines.presets import accelerator_preset

ATTENTION = Attention(
    batch=2, heads=8, kv_heads=2, query_len=128, key_len=128, head_size=64, dtype="bf16"
)


def test_a_product_counts_two_operations_a_term() -> None:
    kernel = Gemm(m=2, n=3, k=5, batch=7, dtype="bf16")
    assert kernel.flops == 2 * 7 * 30
    assert kernel.num_bytes == 7 * 2 * (10 + 15 + 6)


def test_accumulating_reads_and_writes_an_fp32_output() -> None:
    kernel = Gemm(m=2, n=3, k=5, dtype="bf16", accumulate=True)
    assert kernel.num_bytes == 2 * (10 + 15) + 8 * 6


def test_flash_attention_skips_the_masked_half_and_never_writes_scores() -> None:
    scores = 2 * 8 * 128 * 128
    assert ATTENTION.flops == 0.5 * 2 * 2 * scores * 64
    assert ATTENTION.num_bytes == 2 * 2 * (2 * 8 + 2 * 2) * 128 * 64


def test_unfused_attention_writes_its_scores() -> None:
    kernel = Attention(
        batch=1, heads=1, kv_heads=1, query_len=8, key_len=8, head_size=4, dtype="fp32", flash=False
    )
    assert kernel.flops == 2 * 2 * 64 * 4
    assert kernel.num_bytes == 4 * (2 * (32 + 32) + 4 * 64)


def test_a_long_kernel_takes_its_roofline_and_a_short_one_the_launch() -> None:
    device = accelerator_preset("a100-80gb")
    big = Gemm(m=16384, n=16384, k=16384, dtype="bf16")
    assert kernel_s(device, big) >= big.flops / device.peak_flop_per_s.of("bf16")
    copy = MemoryBound(num_bytes=1e9)
    assert kernel_s(device, copy) >= 1e9 / device.hbm_bytes_per_s
    assert kernel_s(device, MemoryBound(num_bytes=0)) == device.kernel_launch_s


def test_sizes_are_positive() -> None:
    with pytest.raises(ParplanError, match="k: must be at least 1, got 0"):
        Gemm(m=1, n=1, k=0, dtype="bf16")
    with pytest.raises(ParplanError, match="num_bytes: must not be negative"):
        MemoryBound(num_bytes=-1)
