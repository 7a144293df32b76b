"""Gathers and reductions: a collective for each unit of full sharding, buckets for the rest."""

from dataclasses import replace

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.spaces.constraints import Constraints
from parplan.sim.cost_model.communication import Communication, slowed_share
from parplan.sim.cost_model.parameter_exchanges import (
    BUCKET_PARAMETERS,
    backward_gathers,
    exchanged_together,
    gather_all_s,
    reduce_all_s,
)
from parplan.sim.cost_model.stage_formula import (
    LayerWork,
    ParameterWork,
    Surroundings,
    costs_of_stage,
)
from parplan.sim.cost_model.stages import StageParameters, stage_parameters
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import SLOWED_SHARE
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload

LLAMA = Workload(model=model_preset("llama2-7b"), seq_len=2048, global_batch=64)
CLUSTER = cluster_preset("eos")


def plan(ranks: int, zero: int, **fields: object) -> Plan:
    return Plan(data_parallel=ranks, **zero_fields(zero), **fields)  # type: ignore[arg-type]


def of(own: Plan, workload: Workload = LLAMA) -> tuple[StageParameters, Communication]:
    (parameters,) = stage_parameters(workload, own)
    return parameters, Communication(CLUSTER, own)


@pytest.mark.parametrize("name", ["llama2-7b", "gpt3-175b", "mixtral-8x7b"])
def test_units_are_all_of_the_parameters(name: str) -> None:
    workload = replace(LLAMA, model=model_preset(name))
    for stages in (1, 2, 4):
        for parameters in stage_parameters(workload, Plan(num_stages=stages)):
            dense = sum(unit.number * unit.dense for unit in parameters.units)
            experts = sum(unit.number * unit.experts for unit in parameters.units)
            assert dense == pytest.approx(parameters.dense)
            assert experts == pytest.approx(parameters.experts)


def test_full_sharding_pays_for_each_unit() -> None:
    own = plan(512, 3)
    parameters, links = of(own)
    one = links.collective_s("all_gather", 2 * parameters.total, "shards")
    block = parameters.units[-1]
    blocks_s = 32 * links.collective_s("all_gather", 2 * block.dense, "shards")
    ends_s = sum(
        links.collective_s("all_gather", 2 * unit.dense, "shards") for unit in parameters.units[:-1]
    )
    found = gather_all_s(LLAMA, own, links, parameters)
    assert found == pytest.approx(blocks_s + ends_s)
    assert found > 1.5 * one


def test_what_more_ranks_add_is_latency_of_each_unit() -> None:
    """On many ranks bandwidth is the same, and 34 units pay what one pays 34 times."""
    added = []
    for zero in (1, 3):
        few, many = (
            gather_all_s(LLAMA, own, links, parameters)
            for own in (plan(512, zero), plan(2048, zero))
            for parameters, links in [of(own)]
        )
        added.append(many - few)
    whole, units = added
    assert units > 15 * whole > 0


def test_buckets_are_only_beside_a_backward() -> None:
    for overlaps in (False, True):
        own = plan(8, 1, overlap_gradient_reduction=overlaps)
        parameters, links = of(own)
        (bucket,) = exchanged_together(LLAMA, own, parameters, links)
        assert bucket.number * bucket.dense == pytest.approx(parameters.dense)
        assert bucket.number == (-(-parameters.total // BUCKET_PARAMETERS) if overlaps else 1)


def test_buckets_grow_with_the_ranks() -> None:
    own = plan(2048, 1, overlap_gradient_reduction=True)
    (bucket,) = exchanged_together(LLAMA, own, *of(own))
    assert bucket.number == 4  # 6.7 billion parameters by 2,048 million of them


def test_only_what_is_trained_is_in_buckets() -> None:
    workload = replace(LLAMA, lora_rank=16)
    own = plan(8, 1, overlap_gradient_reduction=True)
    (bucket,) = exchanged_together(workload, own, *of(own, workload))
    assert bucket.number == 1


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bounds_know_that_buckets_cost_more_than_one_reduction(zero: int) -> None:
    """The least of a box with and without overlap is no more than that of either."""
    cluster: Cluster = CLUSTER
    allowed = Constraints(overlap_gradient_reduction=(True, False))
    parts = RelaxedParts(CostTables(LLAMA, cluster), allowed)
    ranks = cluster.num_accelerators
    both = [plan(ranks, zero, overlap_gradient_reduction=each) for each in (True, False)]
    least = parts.parameters(both[0])
    for own in both:
        parameters, links = of(own)
        assert least[0, 1] <= reduce_all_s(LLAMA, own, links, parameters)


LISTS = replace(
    LLAMA,
    software=Software(sharded_in_lists=True, recomputation_gathers=True, joint_up_projection=False),
)


def test_lists_of_shards_cost_the_host_what_their_length_says() -> None:
    """Five matrices in each of 32 blocks, and an embedding and a head."""
    found = []
    for ranks in (512, 1024):
        own = plan(ranks, 3)
        parameters, links = of(own, LISTS)
        units = list(exchanged_together(LISTS, own, parameters, links))
        assert sum(unit.number for unit in units) == 2 + 32 * 5
        assert sum(unit.number * unit.dense for unit in units) == pytest.approx(parameters.dense)
        device_s = sum(
            unit.number * links.collective_s("all_gather", 2 * unit.dense, "shards")
            for unit in units
        )
        found.append(gather_all_s(LISTS, own, links, parameters) - device_s)
    assert found[0] > 0
    assert found[1] == pytest.approx(2 * found[0])


def test_nothing_hides_lists_of_shards() -> None:
    """A step is longer by all that is gathered and reduced, not by what exceeds the computation."""
    own = plan(CLUSTER.num_accelerators, 3)
    large = replace(LISTS, global_batch=CLUSTER.num_accelerators)
    parameters, links = of(own, large)
    step, hidden = (
        predict(compile_plan(each, CLUSTER, own)).step_s
        for each in (large, replace(large, software=Software(joint_up_projection=False)))
    )
    exchanged_s = 2 * gather_all_s(large, own, links, parameters)
    exchanged_s += reduce_all_s(large, own, links, parameters)
    assert step > exchanged_s
    assert step - hidden > 0.9 * exchanged_s


def test_only_large_layers_are_gathered_again_after_their_recomputation() -> None:
    large = replace(LISTS, model=model_preset("gpt3-175b"))
    full, none = plan(64, 3, recomputation="full"), plan(64, 3)
    assert backward_gathers(large, full) == 2
    assert backward_gathers(large, none) == 1
    assert backward_gathers(LISTS, full) == 1
    assert backward_gathers(replace(large, software=Software()), full) == 1


def test_kernels_beside_gathers_are_slower_by_some_software_and_on_some_machines() -> None:
    """A layer takes longer by a share of what is gathered beside it, until gathers are longer."""
    around = Surroundings(zero_stage=3, slowed_share=0.25)
    found = costs_of_stage(LayerWork(8.0, 8.0, 0.0, 4), ParameterWork(4.0, 0.0, 0.0), around)
    assert found.forward_s == 1.0 + 3 * (2.0 + 0.25) + 2.0
    found = costs_of_stage(LayerWork(8.0, 8.0, 0.0, 4), ParameterWork(40.0, 0.0, 0.0), around)
    assert found.forward_s == 10.0 + 3 * 10.0 + 2.0
    slow = Software(gathers_slow_kernels=True)
    assert slowed_share(CLUSTER, slow) == SLOWED_SHARE
    assert slowed_share(CLUSTER, Software()) == 0.0
    assert slowed_share(cluster_preset("tpu-v5e-pod"), slow) == 0.0
