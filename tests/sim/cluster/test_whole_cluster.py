"""All replicas of a plan: alike as one, folded as all, and delayed by the slowest."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster, Link, Tier
from parplan.hardware.network.fabric import Fabric
from parplan.hardware.network.interconnect import LinkUse
from parplan.hardware.network.placement import Placement
from parplan.sim.cluster.cluster_layout import default_placement, replica_slowdowns
from parplan.sim.cluster.replica_links import ClusterLinks, Routes, cells
from parplan.sim.cluster.whole_cluster import ClusterRun, kinds_of_replicas, simulate_cluster
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table
from parplan.sim.prediction.predict import CompiledPlan, compile_plan, predict
from parplan.sim.schedules import make_program, make_schedule
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.sim.engine.random_lists import random_costs, random_lists

seeds = st.integers(0, 2**32)
LIKE = cluster_preset("4xdgx-h100")


def random_plan(seed: int) -> CompiledPlan:
    """Random lists and costs over a few replicas."""
    draw = random.Random(seed)
    schedule, stages = random_lists(seed)
    plan = Plan(
        num_stages=len(schedule),
        data_parallel=draw.randint(1, 6),
        tensor_parallel=draw.randint(1, 3),
        context_parallel=draw.randint(1, 2),
    )
    costs = tuple(random_costs(seed, stages))
    return CompiledPlan(plan=plan, schedule=schedule, costs=costs, memory=())


def random_slowdown(seed: int, num_ranks: int) -> dict[int, float]:
    draw = random.Random(seed)
    some = draw.sample(range(num_ranks), min(num_ranks, draw.randint(0, 4)))
    return {rank: draw.choice([0.5, 1.0, 1.5, 2.0]) for rank in some}


def random_placement(seed: int, plan: Plan) -> Placement:
    usual = default_placement(plan)
    order = random.Random(seed).sample(usual.order, len(usual.order))
    return Placement(order=tuple(order), sizes=tuple(usual.size(axis) for axis in order))


def machine(seed: int, num_ranks: int) -> Cluster:
    """Nodes whose accelerators share network interfaces, and leaf switches that share uplinks."""
    draw = random.Random(seed)
    per_node = draw.choice([1, 2, 3, 4])
    nodes = -(-num_ranks // per_node)
    if nodes == 1:
        nodes = 2
    inside = Tier(
        name="node",
        size=per_node,
        link=Link(latency_s=2e-12, bytes_per_s=1e13),
        fabric=Fabric(kind="nvswitch", nominal_bytes_per_s=1e13),
    )
    network = Tier(
        name="cluster",
        size=nodes * per_node,
        link=Link(latency_s=5e-12, bytes_per_s=1e12),
        fabric=Fabric(
            kind=draw.choice(["fat-tree", "rail-fat-tree"]),
            nominal_bytes_per_s=1e12,
            nics_per_node=draw.randint(1, per_node),
            nodes_per_switch=draw.randint(1, 3),
            oversubscription=draw.choice([1.0, 2.0]),
        ),
    )
    return replace(LIKE, num_nodes=nodes, tiers=(inside, network))


def check_same(one: ClusterRun, other: ClusterRun) -> None:
    assert one.step_s == other.step_s
    assert one.num_replicas == other.num_replicas
    for replica in range(one.num_replicas):
        assert one.run_of(replica) == other.run_of(replica)


@given(seed=seeds)
@settings(deadline=None, max_examples=200)
def test_replicas_that_are_alike_do_what_the_engine_says(seed: int) -> None:
    compiled = random_plan(seed)
    expected = simulate(compiled.schedule, compiled.costs)
    for folded in (False, True):
        simulated = simulate_cluster(compiled, folded=folded)
        assert simulated.num_ranks == compiled.plan.num_devices
        for replica in range(compiled.plan.data_parallel):
            assert simulated.run_of(replica) == expected
    assert len(simulate_cluster(compiled).classes) == 1


@given(seed=seeds)
@settings(deadline=None, max_examples=200)
def test_folded_is_as_all_of_them_with_stragglers(seed: int) -> None:
    compiled = random_plan(seed)
    slowdown = random_slowdown(seed, compiled.plan.num_devices)
    placement = random_placement(seed, compiled.plan)
    folded, full = (
        simulate_cluster(compiled, slowdown=slowdown, placement=placement, folded=one)
        for one in (True, False)
    )
    check_same(folded, full)
    assert len(folded.classes) <= 1 + len(slowdown)
    assert len(full.classes) == compiled.plan.data_parallel


@pytest.mark.parametrize("sharing", ["fair", "fifo"])
@given(seed=seeds)
@settings(deadline=None, max_examples=100)
def test_folded_is_as_all_of_them_on_shared_links(sharing: str, seed: int) -> None:
    compiled = random_plan(seed)
    links = ClusterLinks(
        cluster=machine(seed, compiled.plan.num_devices),
        message_bytes=float(random.Random(seed).choice([0, 10, 1000])),
        sharing=sharing,  # type: ignore[arg-type]
    )
    slowdown = random_slowdown(seed, compiled.plan.num_devices)
    placement = random_placement(seed, compiled.plan)
    folded, full = (
        simulate_cluster(compiled, slowdown=slowdown, placement=placement, links=links, folded=one)
        for one in (True, False)
    )
    check_same(folded, full)


@given(seed=seeds)
@settings(deadline=None, max_examples=100)
def test_links_that_nobody_shares_are_links_of_their_own(seed: int) -> None:
    draw = random.Random(seed)
    compiled = random_plan(seed)
    plan = replace(compiled.plan, data_parallel=draw.randint(1, 3))
    num_bytes = draw.choice([0, 10, 1000])
    costs = [replace(c, send_s=num_bytes / 1e12, latency_s=5e-12) for c in compiled.costs]
    compiled = replace(compiled, plan=plan, costs=tuple(costs))
    # One accelerator on each node.
    link = Link(latency_s=5e-12, bytes_per_s=1e12)
    fabric = Fabric(kind="rail-fat-tree", nominal_bytes_per_s=1e12, nics_per_node=1)
    node = Tier(name="node", size=1, link=link)
    network = Tier(name="cluster", size=plan.num_devices, link=link, fabric=fabric)
    cluster = replace(LIKE, num_nodes=plan.num_devices, tiers=(node, network))
    links = ClusterLinks(cluster=cluster, message_bytes=num_bytes)
    if plan.num_stages > 2:
        return  # A rank in the middle sends both ways through its one interface.
    assert simulate_cluster(compiled, links=links).step_s == simulate_cluster(compiled).step_s


def stage(**seconds: float) -> StageCosts:
    return StageCosts(**{"forward_s": 1, "input_gradient_s": 1, "weight_gradient_s": 1, **seconds})  # type: ignore[arg-type]


def compiled_of(costs: Sequence[StageCosts], micro_batches: int, **plan: int) -> CompiledPlan:
    schedule = make_schedule("1f1b", len(costs), micro_batches)
    return CompiledPlan(
        plan=Plan(num_stages=len(costs), num_micro_batches=micro_batches, **plan),  # type: ignore[arg-type]
        schedule=schedule,
        costs=tuple(costs),
        memory=(),
    )


def test_a_straggler_delays_its_whole_group_by_hand() -> None:
    # Forward and backward take 3 s, of replica 1 of 3 twice as long: reduced from 6 to 10 s; its
    # optimizer takes 2 s then, that of the others 1 s; shards are gathered when it has its own.
    costs = stage(reduce_s=4, optimizer_s=1, gather_s=5)
    simulated = simulate_cluster(compiled_of([costs], 1, data_parallel=3), slowdown={1: 2.0})
    assert simulated.step_s == 17
    assert [found.replicas for found in simulated.classes] == [(0, 2), (1,)]
    for found, ends in zip(simulated.classes, (11, 12), strict=True):
        spans = {e.name: (e.start_s, e.end_s) for e in found.run.events}
        assert spans["reduce 0"] == (6, 10)
        assert spans["optimizer 0"] == (10, ends)
        assert spans["gather 0"] == (12, 17)


def test_buckets_wait_for_the_last_replica_one_by_one() -> None:
    # Two buckets, ready at 2 and 3 s, of the straggler at 4 and 6 s; each is reduced in 3 s.
    costs = stage(reduce_s=6, reduce_buckets=2)
    simulated = simulate_cluster(compiled_of([costs], 1, data_parallel=2), slowdown={0: 2.0})
    reduced = [(e.start_s, e.end_s) for e in simulated.run_of(1).events if e.name == "reduce 0"]
    assert reduced == [(4, 7), (7, 10)]


@given(seed=seeds)
@settings(deadline=None, max_examples=100)
def test_a_slower_rank_never_shortens_the_step(seed: int) -> None:
    compiled = random_plan(seed)
    rank = random.Random(seed).randrange(compiled.plan.num_devices)
    # Gradients that are created cost more or less than none: the sum may not fall below zero.
    steps = [simulate_cluster(compiled, slowdown={rank: f}).step_s for f in (1.0, 1.5, 3.0)]
    assert steps == sorted(steps)
    assert steps[2] <= 3 * steps[0] + 1e-9 * (1 + steps[0])


def test_every_rank_slower_is_the_engine_with_slower_stages() -> None:
    for seed in range(50):
        compiled = random_plan(seed)
        everyone = dict.fromkeys(range(compiled.plan.num_devices), 2.0)
        names = ("forward_s", "input_gradient_s", "weight_gradient_s")
        twice = [
            replace(
                c,
                **{
                    name: 2 * getattr(c, name)
                    for name in (*names, "first_gradient_extra_s", "optimizer_s")
                },
            )
            for c in compiled.costs
        ]
        simulated = simulate_cluster(compiled, slowdown=everyone)
        assert len(simulated.classes) == 1
        assert simulated.step_s == simulate(compiled.schedule, twice).step_s


@given(
    st.integers(1, 4), st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)
)
def test_ranks_slow_down_those_they_keep_step_with(
    tensor: int, context: int, data: int, stages: int, expert: int
) -> None:
    if data * context % expert:
        return
    plan = Plan(
        tensor_parallel=tensor,
        context_parallel=context,
        data_parallel=data,
        num_stages=stages,
        expert_parallel=expert,
    )
    placement = default_placement(plan)
    members = tensor * context
    block = lcm(members, expert * tensor) if expert > 1 else members
    for rank in range(placement.num_ranks):
        found = replica_slowdowns(plan, placement, {rank: 3.0})
        stage_of, within = divmod(rank, data * members)
        slow = {(d, p) for d in range(data) for p in range(stages) if found[d][p] != 1.0}
        expected = {d for d in range(data) if d * members // block == within // block}
        assert slow == {(d, stage_of) for d in expected}


def test_replicas_on_shared_links_are_folded_by_whole_sets() -> None:
    def routes(name: str) -> dict[tuple[int, int], tuple[tuple[LinkUse, ...], ...]]:
        return {(0, 1): ((LinkUse(name=name, bytes_per_s=1.0, latency_s=0.0),),)}

    every = [routes(name) for name in "abba"]
    assert cells(every) == [[0, 3], [1, 2]]
    assert kinds_of_replicas([(1.0, 1.0)] * 4, every) == [[0, 1], [3, 2]]
    slow = [(1.0, 1.0), (1.0, 1.0), (1.0, 2.0), (1.0, 1.0)]
    assert kinds_of_replicas(slow, every) == [[0], [1], [2], [3]]


def test_replicas_that_share_other_links_are_not_alike() -> None:
    def routes(names: str, bytes_per_s: float = 1.0) -> Routes:
        part = tuple(LinkUse(name=n, bytes_per_s=bytes_per_s, latency_s=0.0) for n in names)
        return {(0, 1): (part,)}

    plain = [(1.0, 1.0)] * 4
    # The first two share the way out, the last two the way in.
    assert len(kinds_of_replicas(plain, [routes(names) for names in ("ab", "ac", "de", "fe")])) == 4
    assert len(kinds_of_replicas(plain, [routes(names) for names in ("ab", "ac", "de", "df")])) == 2
    assert len(kinds_of_replicas(plain[:2], [routes("a"), routes("b", 2.0)])) == 2


def test_replicas_behind_one_interface_wait_for_each_other() -> None:
    # Two stages on two nodes of two accelerators, one interface each: two replicas, whose messages
    # of 8 bytes each take 4 s at 2 bytes a second alone, and 8 s together.
    link = Link(latency_s=0, bytes_per_s=1)
    fabric = Fabric(kind="rail-fat-tree", nominal_bytes_per_s=1, nics_per_node=1)
    tiers = (
        Tier(name="node", size=2, link=link),
        Tier(name="cluster", size=4, link=link, fabric=fabric),
    )
    cluster = replace(LIKE, num_nodes=2, tiers=tiers)
    compiled = compiled_of([stage(), stage()], 1, data_parallel=2)
    links = ClusterLinks(cluster=cluster, message_bytes=8)
    assert simulate_cluster(compiled, links=links).step_s == 6 + 2 * 8
    # Where the replicas lie on nodes of their own, messages stay inside: 8 s at 1 byte a second.
    inside = Placement(order=("pipeline", "data"), sizes=(2, 2))
    simulated = simulate_cluster(compiled, links=links, placement=inside)
    assert (simulated.step_s, len(simulated.classes)) == (6 + 2 * 8, 1)
    # A replica that comes later has the interface for itself.
    late = simulate_cluster(compiled, links=links, slowdown={1: 100.0})
    assert late.step_s == 100 + 4 + 3 + 4 + 200
    assert late.run_of(0).events[1].end_s == 1 + 4


def test_sixteen_thousand_ranks_are_a_few_kinds() -> None:
    workload = Workload(
        model=model_preset("llama3-405b"), seq_len=8192, global_batch=2048, framework=NO_OVERHEAD
    )
    plan = Plan(
        num_stages=16,
        tensor_parallel=8,
        data_parallel=128,
        num_micro_batches=16,
        distribute_param=True,
    )
    compiled = compile_plan(workload, cluster_preset("16384xh100"), plan)
    simulated = simulate_cluster(compiled, slowdown={77: 1.2, 5000: 1.5})
    assert simulated.num_ranks == 16384
    assert sorted(len(found.replicas) for found in simulated.classes) == [1, 1, 126]
    plain = simulate_cluster(compiled)
    assert plain.run_of(5) == predict(compiled)
    assert plain.step_s < simulated.step_s < 1.5 * plain.step_s


def test_the_command_says_what_a_straggler_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    workload = Workload(
        model=model_preset("llama3-8b"), seq_len=2048, global_batch=8, framework=NO_OVERHEAD
    )
    plan = Plan(num_stages=4, num_micro_batches=2, data_parallel=4, recomputation="full")
    Path("plan.json").write_text(json.dumps(plan_table(plan, workload, "16xh100")))
    assert main(["simulate", "plan.json", "--slow", "5=1.5", "9=1.1"]) == 0
    compiled = compile_plan(workload, cluster_preset("16xh100"), plan)
    slow = simulate_cluster(compiled, slowdown={5: 1.5, 9: 1.1}).step_s
    longer = slow - predict(compiled).step_s
    assert (
        f"with slow ranks (5 x 1.5, 9 x 1.1 of 16): step {slow:.4g} s, {longer:.4g} s"
        in capsys.readouterr().out
    )
    for given_, message in (
        ("5", "--slow: '5' is not RANK=FACTOR"),
        ("16=2", "rank 16: the plan has ranks 0 to 15"),
        ("3=0", "rank 3: must be positive, got 0.0"),
        ("3=nan", "--slow: '3=nan' is not RANK=FACTOR"),
    ):
        assert main(["simulate", "plan.json", "--slow", given_]) == 2
        assert message in capsys.readouterr().err


def test_mistakes_are_refused() -> None:
    compiled = compiled_of([stage(), stage()], 1, data_parallel=2)
    with pytest.raises(ParplanError, match="rank 4: the plan has ranks 0 to 3"):
        simulate_cluster(compiled, slowdown={4: 2.0})
    for order, sizes in ((("data", "pipeline"), (1, 2)), (("tensor", "pipeline"), (2, 2))):
        with pytest.raises(ParplanError, match="placement: "):
            simulate_cluster(compiled, placement=Placement(order=order, sizes=sizes))
    with pytest.raises(ParplanError, match="replica 2: there are 0 to 1"):
        simulate_cluster(compiled).run_of(2)
    backward = replace(compiled, schedule=tuple(actions[::-1] for actions in compiled.schedule))
    with pytest.raises(ParplanError):
        simulate_cluster(backward)


def test_overlapped_pairs_are_refused() -> None:
    plan = Plan(num_stages=4, num_micro_batches=8, schedule="dualpipe")
    schedule = make_program("dualpipe", 4, 8)
    cost = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0)
    compiled = CompiledPlan(plan=plan, schedule=schedule, costs=(cost,) * 4, memory=())
    with pytest.raises(ParplanError, match="schedule dualpipe: overlapped pairs"):
        simulate_cluster(compiled)
