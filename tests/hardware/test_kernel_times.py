"""The kernel time model: what has to hold on every accelerator, whatever its constants."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.attention_times import unfused_attention
from parplan.hardware.kernels.efficiency import kernel_efficiency
from parplan.hardware.kernels.kernel import Attention, Gemm, Kernel, MemoryBound
from parplan.hardware.machines.presets import (
    accelerator_names,
    accelerator_preset,
    accelerator_table,
)

DEVICES = {name: accelerator_preset(name) for name in accelerator_names()}
A100 = DEVICES["a100-pcie-80gb"]

SIZES = st.integers(1, 20_000)
GEMMS = st.builds(
    Gemm,
    m=SIZES,
    n=SIZES,
    k=SIZES,
    batch=st.integers(1, 64),
    dtype=st.just("16"),
    transposed=st.sampled_from(["NN", "TN", "NT"]),
    accumulate=st.booleans(),
    grouped=st.booleans(),
)
HEADS = st.sampled_from([1, 2, 8, 32])
ATTENTIONS = st.builds(
    Attention,
    batch=st.integers(1, 8),
    heads=HEADS,
    kv_heads=st.just(1),
    query_len=SIZES,
    key_len=SIZES,
    head_size=st.sampled_from([32, 64, 128, 192]),
    dtype=st.just("16"),
    causal=st.booleans(),
    flash=st.booleans(),
    direction=st.sampled_from(["forward", "backward"]),
)


def half_precision(device: Accelerator) -> str:
    return "bf16" if device.peak_flop_per_s.bf16 else "fp16"


def on(device: Accelerator, kernel: Gemm | Attention) -> Gemm | Attention:
    """`kernel` in the 16-bit type that `device` has."""
    return replace(kernel, dtype=half_precision(device))


def gemm_s(device: Accelerator, m: int, n: int, k: int, dtype: str) -> float:
    return kernel_s(device, Gemm(m=m, n=n, k=k, dtype=dtype))


def roofline_s(device: Accelerator, kernel: Kernel) -> float:
    parts = [kernel]
    if isinstance(kernel, Attention) and not kernel.flash:
        parts = list(unfused_attention(kernel))
    rate = device.peak_flop_per_s.of(half_precision(device))
    return sum(max(p.flops / rate, p.num_bytes / device.hbm_bytes_per_s) for p in parts)


@given(name=st.sampled_from(sorted(DEVICES)), kernel=GEMMS | ATTENTIONS)
@settings(deadline=None, max_examples=300)
def test_no_kernel_beats_the_roofline(name: str, kernel: Gemm | Attention) -> None:
    device = DEVICES[name]
    kernel = on(device, kernel)
    assert kernel_s(device, kernel) >= roofline_s(device, kernel) * (1 - 1e-12)
    assert kernel_s(device, kernel) >= device.kernel_launch_s


@given(
    name=st.sampled_from(sorted(DEVICES)),
    kernel=GEMMS,
    field=st.sampled_from(["m", "n", "k", "batch"]),
)
@settings(deadline=None, max_examples=300)
def test_a_larger_product_is_never_faster(name: str, kernel: Gemm, field: str) -> None:
    kernel = on(DEVICES[name], kernel)
    doubled = replace(kernel, **{field: 2 * getattr(kernel, field)})
    assert kernel_s(DEVICES[name], doubled) >= kernel_s(DEVICES[name], kernel) * (1 - 1e-12)


@given(
    name=st.sampled_from(sorted(DEVICES)),
    kernel=ATTENTIONS,
    field=st.sampled_from(["batch", "heads", "query_len", "key_len"]),
)
@settings(deadline=None, max_examples=300)
def test_larger_attention_is_never_faster(name: str, kernel: Attention, field: str) -> None:
    kernel = on(DEVICES[name], kernel)
    doubled = replace(kernel, **{field: 2 * getattr(kernel, field)})
    assert kernel_s(DEVICES[name], doubled) >= kernel_s(DEVICES[name], kernel) * (1 - 1e-12)


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_large_product_reaches_a_plausible_share_of_the_peak(name: str) -> None:
    device = DEVICES[name]
    dtype = half_precision(device)
    flops = 2.0 * 8192**3
    share = flops / gemm_s(device, 8192, 8192, 8192, dtype) / device.peak_flop_per_s.of(dtype)
    # No more than the best product that was measured on it.
    assert 0.4 <= share <= device.gemm_efficiency


def test_tiles_and_waves_quantise() -> None:
    def seconds(n: int) -> float:
        return gemm_s(A100, 4096, n, 4096, "bf16")

    # 96 tiles of 256 x 128 fill most of the 108 processors; 128 need a second wave.
    assert seconds(1024) / seconds(768) > 1.1 * 1024 / 768
    # A tile is not cheaper for being half empty.
    assert seconds(12800 + 8) > seconds(12800)


def test_a_split_k_helps_where_there_are_few_tiles() -> None:
    few = gemm_s(A100, 128, 128, 65536, "bf16")
    assert A100.kernels is not None
    # One tile on one processor would take this long at least.
    rate = A100.peak_flop_per_s.of("bf16") / A100.num_processors
    assert few < 2.0 * 128 * 128 * 65536 / rate / 4


def test_products_that_share_the_device_are_faster_than_one_after_the_other() -> None:
    one = Gemm(m=128, n=1024, k=1024, dtype="bf16")
    batched = kernel_s(A100, replace(one, batch=64))
    grouped = kernel_s(A100, replace(one, batch=64, grouped=True))
    assert batched < grouped < 64 * kernel_s(A100, one)


def test_few_heads_leave_processors_idle() -> None:
    def seconds(heads: int) -> float:
        kernel = Attention(
            batch=1,
            heads=heads,
            kv_heads=1,
            query_len=4096,
            key_len=4096,
            head_size=128,
            dtype="bf16",
        )
        return kernel_s(A100, kernel)

    assert seconds(2) < 1.5 * seconds(1)
    assert seconds(64) > 1.8 * seconds(32)


def test_attention_in_a_window_takes_its_share() -> None:
    whole = Attention(
        batch=4,
        heads=32,
        kv_heads=32,
        query_len=16384,
        key_len=16384,
        head_size=128,
        dtype="bf16",
    )
    for direction in ("forward", "backward"):
        all_keys = replace(whole, direction=direction)
        seconds = [
            kernel_s(A100, replace(all_keys, window=window))
            for window in (128, 1024, 8192, 16384, 32768)
        ]
        assert seconds == sorted(seconds)
        assert seconds[-2] == seconds[-1] == kernel_s(A100, all_keys)
        # A sixteenth of the keys: an eighth of the triangle, less a corner.
        assert 1 / 9 < seconds[1] / seconds[-1] < 1 / 6
    with pytest.raises(ParplanError, match="window: needs causal attention"):
        replace(whole, window=128, causal=False)


def test_unfused_attention_takes_its_products_and_its_passes() -> None:
    kernel = Attention(
        batch=2,
        heads=4,
        kv_heads=4,
        query_len=256,
        key_len=256,
        head_size=64,
        dtype="bf16",
        flash=False,
    )
    backward = replace(kernel, direction="backward")
    for whole in (kernel, backward):
        parts = unfused_attention(whole)
        assert sum(part.flops for part in parts) == whole.flops
        assert kernel_s(A100, whole) == sum(kernel_s(A100, part) for part in parts)


def test_bandwidth_ramps_up_with_size() -> None:
    rates = [size / kernel_s(A100, MemoryBound(num_bytes=size)) for size in (1e4, 1e6, 1e8, 1e10)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(A100.hbm_bytes_per_s * A100.hbm_efficiency, rel=0.01)
    assert kernel_s(A100, MemoryBound(num_bytes=0)) == A100.kernel_launch_s


def test_measured_accelerators_have_their_own_constants_and_relatives_take_them() -> None:
    own = kernel_efficiency("b200", "nvidia-blackwell")
    assert own is not None
    assert own.source.startswith("fitted")
    assert DEVICES["gb300"].kernels == own
    assert DEVICES["h100-sxm"].kernels == A100.kernels
    assert DEVICES["tpu-v4"].kernels is None


def test_planning_loads_neither_scipy_nor_torch() -> None:
    commands = "parplan.experiments.commands"
    code = f"import sys, {commands}.predict.plan, {commands}.study.hardware; "
    code += "print([m for m in ('scipy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_processors_come_from_the_preset() -> None:
    for name, device in DEVICES.items():
        assert device.num_processors == accelerator_table(name).num_processors


def test_a_malformed_file_is_refused_with_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "constants.toml"
    path.write_text('[family.default]\nsource = "x"\nconstant = "b200"\n')
    with pytest.raises(ParplanError, match=r"constants\.toml: family\.default: unknown key"):
        kernel_efficiency("b200", "nvidia-blackwell", path)
    path.write_text('[family.default]\nsource = "x"\nconstants = "b200"\n')
    with pytest.raises(ParplanError, match="unknown table of constants 'b200'"):
        kernel_efficiency("b200", "nvidia-blackwell", path)
    path.write_text("")
    with pytest.raises(ParplanError, match=r"missing table \[family\.default\]"):
        kernel_efficiency("b200", "nvidia-blackwell", path)
