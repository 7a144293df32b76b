"""What optimizers keep and how long their steps take, for one plan and for many at once."""

import dataclasses
from typing import get_args

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_tables import CostTables
from parplan.sim.cost_model.communication import Communication
from parplan.sim.cost_model.optimizers import (
    ITERATIONS,
    MOMENTS,
    block_matrices,
    orthogonalisation,
    step_s,
)
from parplan.sim.cost_model.stage_costs import optimizer_s, parameter_work
from parplan.sim.cost_model.stages import stage_parameters
from parplan.sim.memory.peak import state_of
from parplan.sim.models.model import model_preset, model_presets
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.workload import OptimizerName, Workload

CLUSTER = cluster_preset("8xh100")


def workload(optimizer: str, model: str = "llama3-8b", **fields: object) -> Workload:
    return Workload(
        model=model_preset(model),
        seq_len=4096,
        global_batch=32,
        optimizer=optimizer,  # type: ignore[arg-type]
        **fields,  # type: ignore[arg-type]
    )


def test_every_optimizer_has_its_moments() -> None:
    assert tuple(MOMENTS) == get_args(OptimizerName)


@pytest.mark.parametrize("model", model_presets())
def test_matrices_of_blocks_are_nearly_all_of_their_parameters(model: str) -> None:
    found = model_preset(model)
    for kind in dict.fromkeys(found.layer_kinds):
        matrices = sum(m * n * count for m, n, count in block_matrices(found, kind))
        # The rest are norms and biases.
        assert 0.99 * found.parameters_of(kind) < matrices <= found.parameters_of(kind)


def test_matrices_are_split_over_tensor_and_expert_parallel_ranks() -> None:
    found = model_preset("deepseek-v3")
    whole, part = (
        sum(m * n * count for m, n, count in block_matrices(found, "moe", *degrees))
        for degrees in ((1, 1, 1), (2, 8, 2))
    )
    experts = found.expert_parameters
    # Router and the down projections of latent attention are whole on every rank.
    assert (whole - experts) / 2 < part - experts / 16 < whole - experts


@pytest.mark.parametrize("optimizer", MOMENTS)
@pytest.mark.parametrize("zero", [0, 1, 3])
def test_state_on_a_rank(optimizer: str, zero: int) -> None:
    job = workload(optimizer)
    plan = Plan(data_parallel=8, num_micro_batches=4, **zero_fields(zero))
    (parameters,) = stage_parameters(job, plan)
    state = state_of(job, plan, parameters)
    ends = 2 * job.model.vocab_size * job.model.hidden_size + job.model.hidden_size
    of_matrices, of_others = MOMENTS[optimizer]
    blocks = job.model.num_parameters - ends
    total = (4 + of_matrices) * blocks + (4 + of_others) * ends
    assert state.optimizer_bytes == pytest.approx(total / (8 if zero else 1))


def test_fewer_bits_are_faster_and_products_are_slower() -> None:
    plan = Plan(data_parallel=8, num_micro_batches=4)
    seconds = {}
    for optimizer in MOMENTS:
        job = workload(optimizer)
        (parameters,) = stage_parameters(job, plan)
        seconds[optimizer] = optimizer_s(job, plan, CLUSTER, parameters)
    assert seconds["sgd"] < seconds["adamw-8bit"] < seconds["adamw-bf16"] < seconds["adamw"]
    assert seconds["muon"] > seconds["adamw"]


def test_a_muon_step_by_hand() -> None:
    job = workload("muon")
    plan = Plan(data_parallel=8, num_micro_batches=4, **zero_fields(1))
    (parameters,) = stage_parameters(job, plan)
    h, f, kv = 4096, 14336, 1024
    sizes = {(h, h): 2, (h, kv): 2, (h, f): 3}
    flops = 0
    for (m, n), count in sizes.items():
        short, long = min(m, n), max(m, n)
        each = sum(product.flops for product in orthogonalisation(m, n, "bf16"))
        assert each == 4 * short * short * long + 2 * short**3
        flops += 32 * count * ITERATIONS * each
    # A kernel takes as many seconds as it has operations.
    found = step_s(job, plan, parameters, lambda kernel: kernel.flops, is_sharded=True)
    # Norms are counted as matrices.
    assert found == pytest.approx(flops / 8, rel=1e-3)


def test_some_rank_has_a_whole_matrix() -> None:
    job = workload("muon")
    plan = Plan(data_parallel=4096, num_micro_batches=1, **zero_fields(1))
    (parameters,) = stage_parameters(job, plan)
    found = step_s(job, plan, parameters, lambda kernel: kernel.flops, is_sharded=True)
    each = sum(product.flops for product in orthogonalisation(4096, 14336, "bf16"))
    assert found == ITERATIONS * each


def test_stages_without_blocks_orthogonalise_nothing() -> None:
    job = workload("muon")
    plan = Plan(num_stages=2, data_parallel=4, num_micro_batches=8, stage_layers=(0, 32))
    first, second = stage_parameters(job, plan)
    found = [
        step_s(job, plan, own, lambda kernel: kernel.flops, is_sharded=False)
        for own in (first, second)
    ]
    assert found[0] == 0.0 < found[1]


@pytest.mark.parametrize("optimizer", MOMENTS)
@pytest.mark.parametrize("model", ["llama3-8b", "deepseek-v2-lite"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_tables_of_a_search_have_the_same_numbers(
    optimizer: str, model: str, precision: str
) -> None:
    job = workload(optimizer, model, precision=precision)
    experts = 2 if job.model.moe else 1
    for zero in (0, 1):
        plan = Plan(
            tensor_parallel=2,
            num_stages=2,
            data_parallel=2,
            expert_parallel=experts,
            num_micro_batches=16,
            **zero_fields(zero),
        )
        tables = CostTables(job, CLUSTER)
        place = tables.kinds(plan).place
        links = Communication(CLUSTER, plan)
        for stage, own in enumerate(stage_parameters(job, plan)):
            work = parameter_work(job, plan, links, own)
            assert tuple(tables.parameters(plan)[place[stage]]) == work
            assert tuple(tables.states(plan)[place[stage]]) == state_of(job, plan, own)


def test_the_host_takes_no_less_time() -> None:
    job = workload("muon")
    on_device = Plan(data_parallel=8, num_micro_batches=4)
    in_host = dataclasses.replace(on_device, offload_optimizer=True)
    cluster: Cluster = CLUSTER
    (parameters,) = stage_parameters(job, on_device)
    assert optimizer_s(job, in_host, cluster, parameters) >= optimizer_s(
        job, on_device, cluster, parameters
    )
    assert state_of(job, in_host, parameters).optimizer_bytes == 0.0
