"""What the software of a source does, from its table and from what the case says itself."""

from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cases.machine import as_noted
from parplan.experiments.cases.request import request_of
from parplan.experiments.cases.stack import STACKS, check_stacks, stack_of
from parplan.hardware.machines.presets import accelerator_preset
from tests.experiments.cases.published_cases import case


def test_a_table_for_a_precision_changes_that_of_the_group() -> None:
    fp16, bf16 = (stack_of(case(group="bloom", precision=each)) for each in ("fp16", "bf16"))
    assert not fp16.software.low_precision_gradients
    assert bf16.software.low_precision_gradients
    assert bf16.software.blocking_launches
    assert bf16.attention == fp16.attention


def test_a_table_for_a_table_of_the_source_changes_that_of_the_group() -> None:
    of = {
        name: stack_of(case(group="llm-foundry", table=name)).attention
        for name in ("A100 80GB, line 166", "H100 80GB BF16 (Large Scale, >= 128 GPUs), line 74")
    }
    assert list(of.values()) == ["flash-triton", "flash-2"]


@pytest.mark.parametrize(
    ("release", "accelerator", "precision", "found"),
    [
        ("25.11", "NVIDIA H100-SXM-80GB", "FP8", ("nodes", True, False)),
        ("25.11", "NVIDIA GB300", "BF16", ("nodes", False, False)),
        ("25.11", "NVIDIA B200-SXM-180GB", "BF16", ("copies", False, False)),
        ("26.06", "NVIDIA GB300", "MXFP8", ("nodes", True, True)),
        ("26.06", "NVIDIA B300", "MXFP8", ("nodes", False, False)),
    ],
)
def test_tables_for_a_release_and_an_accelerator_add_up(
    release: str, accelerator: str, precision: str, found: tuple[str, bool, bool]
) -> None:
    software = stack_of(
        case(
            group="bridge",
            source=f"performance summary {release}",
            model__name="DeepSeek-V3-671B",
            hardware__accelerator=accelerator,
            precision=precision,
        )
    ).software
    own = software.expert_dispatch, software.overlap_expert_exchange, software.step_graph
    assert own == found


@pytest.mark.parametrize(
    ("kernel", "attention"),
    [
        ("FlashAttention-1.0.8", "flash-1"),
        ("FlashAttention-2 + fused RMSNorm", "flash"),
        ("Megatron fused softmax", "unfused"),
        ("torch attention", "eager"),
    ],
)
def test_a_case_names_its_attention_kernel(kernel: str, attention: str) -> None:
    assert stack_of(case(parallel__attention_kernel=kernel)).attention == attention


def test_no_overlap_is_no_overlap_of_tensor_parallel_gradients_either() -> None:
    off = stack_of(case(parallel__overlap="none (no grad-reduce/param-gather/tp overlap)"))
    assert not off.software.overlap_tensor_gradients
    assert not off.overlap_tensor_parallel
    on = stack_of(case(parallel__overlap="TP comm, grad-reduce, param-gather on"))
    assert on.software.overlap_tensor_gradients
    assert on.overlap_tensor_parallel


def test_software_reaches_the_workload() -> None:
    request = request_of(case(group="alephalpha"))
    assert request.workload.software == request.stack.software
    assert not request.workload.software.parallel_loss


def test_four_bits_are_four_bits_where_the_accelerator_has_them() -> None:
    b200 = {"hardware__key": "B200", "hardware__accelerator": "NVIDIA B200"}
    assert request_of(case(precision="nvfp4", **b200)).workload.precision == "fp4"
    assert request_of(case(precision="fp8 (nvfp4 possible)", **b200)).workload.precision == "fp8"
    assert request_of(case(precision="nvfp4")).workload.precision != "fp4"


def test_a_power_limit_slows_products_and_attention_alike() -> None:
    device = accelerator_preset("h100-sxm")
    limited = as_noted(device, "dgx-h100", "500 W limit")
    slower = limited.gemm_efficiency / device.gemm_efficiency
    assert slower == pytest.approx((500 / 700) ** (1 / 3))
    share = limited.synchronous_attention_share / device.synchronous_attention_share
    assert share == pytest.approx(slower)


def test_a_malformed_table_is_named(tmp_path: Path) -> None:
    check_stacks()
    path = tmp_path / "stacks.toml"
    path.write_text(STACKS.read_text() + '\n["bloom/x"]\nsoftware = { fused = true }\n')
    with pytest.raises(ParplanError, match=r"bloom/x.*unknown key 'fused'"):
        check_stacks(path)


@pytest.mark.parametrize(
    ("group", "source", "model", "accelerator", "graphs"),
    [
        ("bridge", "performance summary 26.02", "DeepSeek-V3-671B", "NVIDIA GB200", True),
        ("bridge", "performance summary 26.02", "DeepSeek-V3-671B", "NVIDIA GB300", False),
        ("bridge", "performance summary 25.09", "Qwen3-235B-A22B", "NVIDIA GB200", True),
        ("bridge", "performance summary 25.09", "Qwen3-235B-A22B", "NVIDIA H100-SXM5-80GB", False),
        ("dgxc", "benchmarking 25.05.05", "Llama-4-Maverick", "NVIDIA H100-SXM5-80GB", True),
        ("dgxc", "benchmarking 25.04.01", "Nemotron-4-340B", "NVIDIA H100-SXM5-80GB", False),
    ],
)
def test_recipes_say_where_layers_are_graphs(
    group: str, source: str, model: str, accelerator: str, graphs: bool
) -> None:
    own = case(group=group, source=source, model__name=model, hardware__accelerator=accelerator)
    assert stack_of(own).software.layer_graphs == graphs
