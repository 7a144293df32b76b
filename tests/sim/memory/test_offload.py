"""Offloading to the host: never more memory on the device, never a shorter step."""

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.backend.executable import why_not_executable
from parplan.errors import ParplanError
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.machines.presets import accelerator_preset, accelerator_table
from parplan.hardware.network.cluster import Cluster, Link, Tier
from parplan.sim.cost_model.offload import exposed_s
from parplan.sim.cost_model.stage_costs import model_costs, stage_costs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import CompiledPlan, compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

DEVICE = Accelerator(
    name="test",
    peak_flop_per_s=DenseRates(bf16=100e12, fp32=10e12, tf32=50e12),
    memory_bytes=80 * 10**9,
    hbm_bytes_per_s=1e12,
    gemm_efficiency=1.0,
    hbm_efficiency=1.0,
    kernel_launch_s=0.0,
    host_bytes_per_s=25e9,
)
LINK = Link(latency_s=1e-6, bytes_per_s=100e9)
GPT = Workload(
    model=model_preset("gpt3-1.3b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
)


def compiled(plan: Plan, host_bytes_per_s: float | None = 25e9, **device: float) -> CompiledPlan:
    accelerator = replace(DEVICE, host_bytes_per_s=host_bytes_per_s, **device)
    tiers = (Tier(name="node", size=4, link=LINK),)
    return compile_plan(GPT, Cluster(name="node", accelerator=accelerator, tiers=tiers), plan)


def plan(**fields: object) -> Plan:
    layout = {"num_stages": 2, "data_parallel": 2, "num_micro_batches": 8, **fields}
    return Plan(**layout)  # type: ignore[arg-type]


@given(
    optimizer=st.booleans(),
    activations=st.booleans(),
    recomputation=st.sampled_from(["none", "selective", "full"]),
    schedule=st.sampled_from(["1f1b", "gpipe", "zb-h1"]),
    zero=st.integers(0, 3),
    rate=st.floats(1e8, 1e13),
)
@settings(deadline=None, max_examples=40)
def test_offloading_takes_no_memory_and_saves_no_time(
    optimizer: bool, activations: bool, recomputation: str, schedule: str, zero: int, rate: float
) -> None:
    on_device = plan(recomputation=recomputation, schedule=schedule, **zero_fields(zero))
    offloaded = replace(on_device, offload_optimizer=optimizer, offload_activations=activations)
    before, after = compiled(on_device, rate), compiled(offloaded, rate)
    assert predict(after).step_s >= predict(before).step_s
    for one, other in zip(before.memory, after.memory, strict=True):
        assert other.total_bytes <= one.total_bytes
        assert other.optimizer_bytes == (0 if optimizer else one.optimizer_bytes)


def test_offloaded_activations_free_what_waits_for_its_backward() -> None:
    on_device = plan(schedule="gpipe")
    offloaded = replace(on_device, offload_activations=True)
    first, second = (compiled(p).memory[0].activation_bytes for p in (on_device, offloaded))
    # Of eight micro-batches on the device at most two of a dozen layers, and the embedding's.
    assert second < first / 8


def test_a_fast_link_hides_all_but_one_block() -> None:
    costs = [compiled(plan(offload_activations=a), 1e15).costs for a in (False, True)]
    for before, after in zip(*costs, strict=True):
        assert after.forward_s == pytest.approx(before.forward_s, rel=1e-3)
        assert after.weight_gradient_s == before.weight_gradient_s


def test_what_exceeds_the_computation_is_exposed() -> None:
    assert exposed_s(10.0, 5.0, 5) == 1.0
    assert exposed_s(5.0, 10.0, 5) == 2.0 + 4 * 1.0
    assert exposed_s(5.0, 10.0, 0) == 0.0


def test_the_optimizer_of_the_host_takes_its_transfers_and_its_memory() -> None:
    offloaded = compiled(plan(offload_optimizer=True)).costs[0]
    parameters = compiled(plan()).memory[0].parameter_bytes / 2
    # Gradients of 2 bytes go down; then 28 bytes of memory traffic for each parameter.
    down_s, update_s = 2 * parameters / 25e9, 28 * parameters / 51.2e9
    assert offloaded.optimizer_s == pytest.approx(down_s + update_s)


@pytest.mark.parametrize("name", ["offload_optimizer", "offload_activations"])
def test_offloading_needs_a_link_to_the_host(name: str) -> None:
    with pytest.raises(ParplanError, match=f"plan: {name}: the accelerator test has no host_bytes"):
        compiled(plan(**{name: True}), None)
    with pytest.raises(ParplanError, match="host_bytes_per_s: must be positive, got 0"):
        replace(DEVICE, host_bytes_per_s=0.0)
    assert f"{name} cannot be executed" in why_not_executable(plan(**{name: True}), 4)


def test_presets_have_the_link_of_their_table() -> None:
    table = accelerator_table("h100-sxm")
    assert accelerator_preset("h100-sxm").host_bytes_per_s == (
        table.pcie_gb_per_s_per_direction * 1e9
    )


def test_tf32_computes_products_of_fp32_values_faster_and_keeps_their_size() -> None:
    cluster = Cluster(name="one", accelerator=DEVICE, tiers=(Tier(name="node", size=1, link=LINK),))
    layout = Plan(num_micro_batches=16)
    costs = {}
    for tf32 in (False, True):
        workload = dataclasses.replace(GPT, precision="fp32", tf32=tf32)
        (costs[tf32],) = stage_costs(
            workload, cluster, layout, model_costs(workload, cluster, layout)
        )
    assert costs[True].weight_gradient_s < costs[False].weight_gradient_s
    assert costs[True].optimizer_s == costs[False].optimizer_s
    with pytest.raises(ParplanError, match="tf32: needs precision fp32, got bf16"):
        dataclasses.replace(GPT, tf32=True)
