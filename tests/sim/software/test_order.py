"""A less optimised stack is never predicted to be faster than a more optimised one."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import (
    LARGER_IS_BETTER,
    NO_OVERHEAD,
    SMALLER_IS_BETTER,
    Framework,
    expected_framework,
)
from parplan.sim.workload import Workload

ORDER = (
    *(("none", "megatron"), ("megatron-bridge", "megatron"), ("megatron", "zero-bubble")),
    *(("megatron", "gpt-neox"), ("megatron", "pytorch"), ("torchtitan", "fsdp")),
    *(("pytorch", "fsdp"), ("pytorch", "hf-trainer"), ("hf-trainer", "accelerate")),
    *(("hf-trainer", "deepspeed"), ("none", "maxtext"), ("none", "torchtitan")),
)
"""(the more optimised software, the less optimised one)"""

OTHER_PRODUCTS = 1e-3
"""Two products in place of one fill a device otherwise: so little may they be faster."""


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of 8 accelerators."""
    tensor, stages = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (1, 4), (2, 2), (8, 1)]))
    return Plan(
        tensor_parallel=tensor,
        sequence_parallel=tensor > 1 and draw(st.booleans()),
        num_stages=stages,
        data_parallel=8 // tensor // stages,
        num_micro_batches=stages * draw(st.integers(1, 3)),
        batch_per_device=draw(st.integers(1, 2)),
        zero_stage=draw(st.integers(0, 3)) if stages == 1 else draw(st.integers(0, 1)),
        recomputation=draw(st.sampled_from(["none", "full"])),
        overlap_gradient_reduction=draw(st.booleans()),
        overlap_tensor_parallel=draw(st.booleans()),
    )


@settings(max_examples=12, deadline=None)
@given(
    plan=plans(),
    model=st.sampled_from(["gpt3-1.3b", "llama2-7b", "llama3-8b", "mixtral-8x7b"]),
    device=st.sampled_from(["8xh100", "8xa100", "8xb200"]),
    seq_len=st.sampled_from([512, 2048, 8192]),
)
def test_less_optimised_software_is_not_faster(
    plan: Plan, model: str, device: str, seq_len: int
) -> None:
    batch = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    cluster, known = cluster_preset(device), dict[str, float]()

    def step_s(name: str) -> float:
        if name not in known:
            workload = Workload(
                model,
                seq_len=min(seq_len, 2048 if "gpt" in model else seq_len),
                global_batch=batch,
                software=name,
            )
            known[name] = predict(compile_plan(workload, cluster, plan)).step_s
        return known[name]

    try:
        for better, worse in ORDER:
            assert step_s(better) <= step_s(worse) * (1 + OTHER_PRODUCTS), (better, worse)
    except ParplanError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("name", ["eager", "fused"])
def test_no_constant_is_better_than_that_of_fused_kernels(name: str) -> None:
    own, fused = expected_framework(name), expected_framework("fused")
    assert all(getattr(own, key) >= getattr(fused, key) for key in SMALLER_IS_BETTER)
    assert all(getattr(own, key) <= getattr(fused, key) for key in LARGER_IS_BETTER)
    constants = {f.name for f in dataclasses.fields(Framework)} - {"name", "source"}
    assert constants == {*SMALLER_IS_BETTER, *LARGER_IS_BETTER}


def test_no_overhead_stays_none() -> None:
    assert expected_framework("none") == NO_OVERHEAD
