"""The groups of a plan: their sizes and strides are those of ranks placed axis by axis."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import Collective, collective_s
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.placement import Placement
from parplan.sim.cost_model.communication import NO_TIME, Communication
from parplan.sim.layers.ops import Exchange
from parplan.sim.plan import Plan

CLUSTER = cluster_preset("64xh100")

SIZES = st.sampled_from([1, 2, 4])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    tensor, context, data, stages = draw(st.tuples(SIZES, SIZES, SIZES, SIZES))
    replicas = data * context
    split = draw(st.sampled_from([None, 1, tensor]))
    spread = [n for n in (1, 2, 4, 8) if replicas * tensor % (n * (split or tensor)) == 0]
    return Plan(
        num_stages=stages,
        tensor_parallel=tensor,
        context_parallel=context,
        data_parallel=data,
        expert_parallel=draw(st.sampled_from(spread)),
        expert_tensor_parallel=split,
        shard_group=draw(st.sampled_from([None, *(n for n in (1, 2, 4) if replicas % n == 0)])),
    )


def first_group(links: Communication, name: str) -> tuple[int, ...]:
    size, distance = links.groups[name]
    return tuple(range(0, size * distance, distance))


@settings(max_examples=100, deadline=None)
@given(plans())
def test_groups_are_those_of_the_placement(plan: Plan) -> None:
    links = Communication(CLUSTER, plan)
    placed = Placement(
        order=("tensor", "context", "data", "pipeline"),
        sizes=(plan.tensor_parallel, plan.context_parallel, plan.data_parallel, plan.num_stages),
    )
    assert placed.num_ranks == plan.num_devices
    assert first_group(links, "tensor") == placed.group(0, "tensor")
    assert first_group(links, "context") == placed.group(0, "context")
    assert first_group(links, "replicas") == placed.group(0, "context", "data")


@settings(max_examples=100, deadline=None)
@given(plans())
def test_groups_of_experts_are_those_of_their_own_placement(plan: Plan) -> None:
    links = Communication(CLUSTER, plan)
    split = plan.expert_tensor_parallel or plan.tensor_parallel
    copies = plan.replicas * plan.tensor_parallel // (plan.expert_parallel * split)
    placed = Placement(
        order=("tensor", "expert", "data", "pipeline"),
        sizes=(split, plan.expert_parallel, copies, plan.num_stages),
    )
    assert placed.num_ranks == plan.num_devices
    assert first_group(links, "expert") == placed.group(0, "expert")
    assert first_group(links, "expert replicas") == placed.group(0, "data")


@settings(max_examples=100, deadline=None)
@given(plans())
def test_shards_and_copies_partition_the_replicas(plan: Plan) -> None:
    links = Communication(CLUSTER, plan)
    shards, copies = first_group(links, "shards"), first_group(links, "copies")
    together = sorted(a + b for a in shards for b in copies)
    assert tuple(together) == first_group(links, "replicas")
    assert links.size("shards") == plan.sharded_over


@settings(max_examples=50, deadline=None)
@given(plans())
def test_groups_stay_within_a_stage(plan: Plan) -> None:
    links = Communication(CLUSTER, plan)
    per_stage = plan.replicas * plan.tensor_parallel
    for name in links.groups.keys() - {"twins"}:
        assert first_group(links, name)[-1] < per_stage
    if plan.num_stages > 1:
        assert first_group(links, "twins") == (0, per_stage * (plan.num_stages - 1))


PLAN = Plan(num_stages=2, tensor_parallel=4, data_parallel=8)


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("group", ["tensor", "replicas"])
def test_a_collective_takes_what_the_hardware_says_of_its_group(op: str, group: str) -> None:
    links = Communication(CLUSTER, PLAN)
    ranks = group_of(CLUSTER, list(first_group(links, group)))
    expected = collective_s(Collective(op=op, num_bytes=1e8), ranks)
    assert links.collective_s(op, 1e8, group) == expected
    # And again, when it is known.
    assert links.collective_s(op, 1e8, group) == expected


def test_an_exchange_is_a_collective_of_its_group() -> None:
    links = Communication(CLUSTER, PLAN)
    exchange = Exchange(group="tensor", op="all_reduce", num_bytes=1e7)
    assert links.exchange_s(exchange) == links.collective_s("all_reduce", 1e7, "tensor")


def test_one_rank_or_no_bytes_take_no_time() -> None:
    links = Communication(CLUSTER, PLAN)
    assert links.collective_s("all_reduce", 1e9, "context") == 0.0
    assert links.collective_s("all_reduce", 0.0, "tensor") == 0.0


def test_groups_that_leave_the_node_are_slower() -> None:
    near = Communication(CLUSTER, Plan(data_parallel=8, num_stages=8))
    far = Communication(CLUSTER, Plan(data_parallel=8, tensor_parallel=8))
    assert far.collective_s("all_reduce", 1e9, "replicas") > near.collective_s(
        "all_reduce", 1e9, "replicas"
    )


def test_small_groups_of_shards_cost_less_than_all_replicas() -> None:
    whole = Communication(CLUSTER, Plan(data_parallel=64))
    hybrid = Communication(CLUSTER, Plan(data_parallel=64, shard_group=8))
    assert hybrid.groups["shards"] == (8, 1)
    assert hybrid.groups["copies"] == (8, 8)
    assert hybrid.collective_s("all_gather", 1e9, "shards") < whole.collective_s(
        "all_gather", 1e9, "shards"
    )


def test_the_next_stage_is_where_its_first_rank_is() -> None:
    assert Communication(CLUSTER, Plan(data_parallel=64)).neighbour() == NO_TIME
    inside = Communication(CLUSTER, Plan(num_stages=16, tensor_parallel=4))
    assert inside.neighbour() == CLUSTER.link_between(0, 4)
    outside = Communication(CLUSTER, Plan(num_stages=8, tensor_parallel=8))
    assert outside.neighbour() == CLUSTER.link_between(0, 8)
    assert outside.neighbour().bytes_per_s < inside.neighbour().bytes_per_s


def test_an_unknown_collective_is_refused() -> None:
    with pytest.raises(ParplanError, match="all_sum"):
        Communication(CLUSTER, PLAN).collective_s("all_sum", 1e6, "tensor")
