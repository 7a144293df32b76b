"""The cost and memory models: what has to hold whatever the constants."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.hardware.collectives.group import GroupLink, group_of
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.kernels.kernel import Attention, Gemm
from parplan.hardware.machines.presets import accelerator_preset, cluster_preset
from parplan.hardware.network.cluster import Cluster, Link, Tier
from parplan.sim.cost_model.stage_costs import model_costs, stage_costs
from parplan.sim.cost_model.stage_formula import prefetched_s
from parplan.sim.cost_model.stages import stage_parameters
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.peak import rank_memory, stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import CompiledPlan, compile_plan, predict
from parplan.sim.schedules import make_schedule
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import TORCH
from parplan.sim.workload import Workload

DEVICE = Accelerator(
    name="test",
    peak_flop_per_s=DenseRates(bf16=100e12, fp32=10e12),
    memory_bytes=80 * 10**9,
    hbm_bytes_per_s=1e12,
    gemm_efficiency=1.0,
    hbm_efficiency=1.0,
    kernel_launch_s=0.0,
)
NODE, NETWORK = Link(latency_s=1e-6, bytes_per_s=100e9), Link(latency_s=1e-5, bytes_per_s=10e9)
CLUSTER = Cluster(
    name="two nodes",
    accelerator=DEVICE,
    num_nodes=2,
    tiers=(Tier(name="node", size=8, link=NODE), Tier(name="cluster", size=16, link=NETWORK)),
)
LLAMA = Workload(
    model=model_preset("llama2-13b"), seq_len=1024, global_batch=64, framework=NO_OVERHEAD
)


def plan(**fields: object) -> Plan:
    layout = {"num_stages": 1, "tensor_parallel": 1, **fields}
    data_parallel = 16 // (layout["num_stages"] * layout["tensor_parallel"])  # type: ignore[operator]
    size = layout.setdefault("batch_per_device", 1)
    layout.setdefault("num_micro_batches", 64 // data_parallel // size)  # type: ignore[operator]
    return Plan(data_parallel=data_parallel, **layout)  # type: ignore[arg-type]


def test_the_stages_hold_the_model_exactly_once() -> None:
    for tensor in (1, 2, 4):
        for stages in (1, 2, 4):
            parameters = stage_parameters(LLAMA, plan(num_stages=stages, tensor_parallel=tensor))
            assert sum(p.total for p in parameters) * tensor == LLAMA.model.num_parameters


def test_a_tied_projection_is_on_both_ends_of_a_pipeline() -> None:
    model = model_preset("gpt3-175b")
    assert model.tied_embeddings
    workload = replace(LLAMA, model=model)
    extra = (
        sum(p.total for p in stage_parameters(workload, plan(num_stages=2))) - model.num_parameters
    )
    assert extra == model.vocab_size * model.hidden_size


def test_adam_in_mixed_precision_takes_sixteen_bytes_per_parameter() -> None:
    # ZeRO, arXiv:1910.02054, section 3.1: 2 + 2 + K with K = 12; figure 1 for the stages.
    schedule = make_schedule("1f1b", 1, 4)

    def state_bytes(zero: int) -> float:
        needs = stage_needs(LLAMA, plan(**zero_fields(zero)))
        (m,) = rank_memory(needs, moments_of(schedule))
        return m.total_bytes - m.activation_bytes

    n, dp = LLAMA.model.num_parameters, 16
    whole = LLAMA.model.block_parameters
    assert state_bytes(0) == 16 * n
    assert state_bytes(1) == pytest.approx((4 + 12 / dp) * n)
    assert state_bytes(2) == pytest.approx((2 + 14 / dp) * n + 2 * whole, rel=0.02)
    # Two blocks are whole, one of them prefetched, and the gradients of one.
    assert state_bytes(3) == pytest.approx(16 / dp * n + 6 * whole, rel=0.02)


def test_recomputation_trades_time_for_memory() -> None:
    workload = replace(LLAMA, attention="unfused")
    runs, memories = [], []
    for recomputation in ("none", "selective", "full"):
        compiled = compile_plan(workload, CLUSTER, plan(num_stages=2, recomputation=recomputation))
        runs.append(predict(compiled).step_s)
        memories.append(compiled.peak_bytes)
    assert runs[0] < runs[1] < runs[2]
    assert memories[0] > memories[1] > memories[2]


def test_a_block_takes_at_least_its_floating_point_operations() -> None:
    one = plan()
    block = model_costs(LLAMA, CLUSTER, one).blocks["dense", False]
    matrices_s = 2 * LLAMA.model.block_matrix_parameters * LLAMA.seq_len / 100e12
    assert matrices_s < block.forward_s < 2 * matrices_s
    assert matrices_s < block.input_gradient_s < 2 * matrices_s
    assert block.weight_gradient_s == pytest.approx(matrices_s)


def test_every_product_of_a_block_is_timed_in_its_own_shape_and_layout() -> None:
    device = accelerator_preset("a100-pcie-80gb")
    cluster = replace(CLUSTER, accelerator=device)
    p, m, tokens = plan(tensor_parallel=2, batch_per_device=2), LLAMA.model, 2 * LLAMA.seq_len
    assert p.num_micro_batches > 1
    layers = (  # Features out and in.
        (3 * m.hidden_size // 2, m.hidden_size),
        (m.hidden_size, m.hidden_size // 2),
        (2 * m.ffn_size // 2, m.hidden_size),
        (m.hidden_size, m.ffn_size // 2),
    )

    def seconds(m: int, n: int, k: int, **fields: object) -> float:
        return kernel_s(device, Gemm(m=m, n=n, k=k, dtype="bf16", **fields))  # type: ignore[arg-type]

    weights = sum(
        seconds(out, into, tokens, transposed="NT", accumulate=True, output_dtype="bf16")
        for out, into in layers
    )
    block = model_costs(LLAMA, cluster, p).blocks["dense", False]
    assert block.weight_gradient_s == pytest.approx(weights)
    # Beside products and attention: elementwise e and exchange x forward, 2 e + x backward.
    forward = sum(seconds(tokens, out, into, transposed="TN") for out, into in layers)
    inputs = sum(seconds(tokens, into, out, transposed="NN") for out, into in layers)
    attention, gradient = (
        kernel_s(
            device,
            Attention(
                batch=2,
                heads=m.num_heads // 2,
                kv_heads=m.num_kv_heads // 2,
                query_len=LLAMA.seq_len,
                key_len=LLAMA.seq_len,
                head_size=m.head_size,
                dtype="bf16",
                direction=direction,
            ),
        )
        for direction in ("forward", "backward")
    )
    selective = model_costs(LLAMA, cluster, replace(p, recomputation="selective"))
    assert selective.blocks["dense", True].recompute_s == pytest.approx(attention)
    assert block.forward_s > forward + attention
    assert block.input_gradient_s > inputs + gradient


def test_unfused_attention_is_its_kernels_in_both_directions() -> None:
    device = accelerator_preset("a100-pcie-80gb")
    cluster, p, m = replace(CLUSTER, accelerator=device), plan(), LLAMA.model
    flash, unfused = (
        model_costs(replace(LLAMA, attention=kind), cluster, p).blocks["dense", False]  # type: ignore[arg-type]
        for kind in ("flash", "unfused")
    )
    fields = {
        "batch": 1,
        "heads": m.num_heads,
        "kv_heads": m.num_kv_heads,
        "query_len": LLAMA.seq_len,
        "key_len": LLAMA.seq_len,
        "head_size": m.head_size,
        "dtype": "bf16",
    }

    def more_s(direction: str) -> float:
        kernel = Attention(direction=direction, **fields)  # type: ignore[arg-type]
        return kernel_s(device, replace(kernel, flash=False)) - kernel_s(device, kernel)

    assert unfused.forward_s - flash.forward_s == pytest.approx(more_s("forward"))
    more_backward = unfused.input_gradient_s - flash.input_gradient_s
    assert more_backward == pytest.approx(more_s("backward"))
    assert unfused.weight_gradient_s == flash.weight_gradient_s


@given(
    stages=st.sampled_from([1, 2, 4, 8]),
    tensor=st.sampled_from([1, 2]),
    size=st.sampled_from([1, 2, 4]),
    zero=st.integers(0, 3),
)
@settings(deadline=None, max_examples=40)
def test_a_faster_machine_is_never_slower(stages: int, tensor: int, size: int, zero: int) -> None:
    p = plan(num_stages=stages, tensor_parallel=tensor, batch_per_device=size, **zero_fields(zero))
    rates = DenseRates(bf16=200e12, fp32=10e12)
    faster = replace(CLUSTER, accelerator=replace(DEVICE, peak_flop_per_s=rates))
    link = replace(NETWORK, bytes_per_s=2 * NETWORK.bytes_per_s)
    wider = replace(CLUSTER, tiers=(CLUSTER.tiers[0], replace(CLUSTER.tiers[1], link=link)))
    step_s = predict(compile_plan(LLAMA, CLUSTER, p)).step_s
    assert predict(compile_plan(LLAMA, faster, p)).step_s <= step_s
    assert predict(compile_plan(LLAMA, wider, p)).step_s <= step_s


def test_a_gather_hides_behind_the_computation() -> None:
    assert prefetched_s(10.0, 0.0, 5) == 10.0
    assert prefetched_s(10.0, 5.0, 5) == 10.0 + 1.0
    assert prefetched_s(5.0, 10.0, 5) == 10.0 + 1.0


def as_group(link: Link) -> GroupLink:
    return GroupLink(latency_s=link.latency_s, bytes_per_s=link.bytes_per_s)


def test_the_pipeline_crosses_the_network_and_tensor_parallelism_does_not() -> None:
    p = plan(num_stages=2, tensor_parallel=8)
    (first, _) = stage_costs(LLAMA, CLUSTER, p, model_costs(LLAMA, CLUSTER, p))
    message = 2 * 1024 * 5120 // 8
    assert first.latency_s == NETWORK.latency_s
    assert first.send_s == pytest.approx(message / NETWORK.bytes_per_s)
    tensor = group_of(CLUSTER, range(8))
    assert (tensor.inside, tensor.across) == (as_group(NODE), None)


def test_a_ring_over_nodes_uses_the_network_links_of_all_its_members() -> None:
    everyone = group_of(CLUSTER, range(16))
    assert everyone.inside is not None
    assert everyone.across is not None
    assert everyone.inside.bytes_per_s == NODE.bytes_per_s
    assert everyone.across.bytes_per_s == 8 * NETWORK.bytes_per_s
    pair = group_of(CLUSTER, range(0, 16, 8))
    assert (pair.inside, pair.across) == (None, as_group(NETWORK))


def test_two_copies_of_each_stage_reduce_their_gradients_together() -> None:
    def reduced(schedule: str) -> float:
        p = replace(plan(num_stages=2, tensor_parallel=8), schedule=schedule)
        return stage_costs(LLAMA, CLUSTER, p, model_costs(LLAMA, CLUSTER, p))[0].reduce_s

    assert reduced("1f1b") == 0
    assert reduced("dualpipe") > 0


@pytest.mark.parametrize("stage", [2, 3])
def test_torchs_pipelines_reduce_sharded_gradients_once(stage: int) -> None:
    cluster = cluster_preset("8xh100")
    once = replace(LLAMA.software, pipelines_reduce_once=True)
    workloads = [LLAMA, replace(LLAMA, software=once)]

    def compiled(**fields: int) -> list[CompiledPlan]:
        batch = LLAMA.global_batch // (fields["data_parallel"] * fields["num_micro_batches"])
        p = Plan(batch_per_device=batch, **fields, **zero_fields(stage))  # type: ignore[arg-type]
        return [compile_plan(workload, cluster, p) for workload in workloads]

    each, whole = compiled(num_stages=2, data_parallel=4, num_micro_batches=4)
    count = [[e.name for e in predict(c).events].count("reduce 1") for c in (each, whole)]
    assert count[0] == 4 * count[1] > 0
    # Whole gradients are kept until then.
    assert whole.peak_bytes > each.peak_bytes
    alone, same = compiled(num_stages=1, data_parallel=8, num_micro_batches=2)
    assert alone.costs == same.costs
    assert TORCH.pipelines_reduce_once
