"""Collectives played over links that groups share, against closed forms and counted bytes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import Collective, collective_s
from parplan.hardware.collectives.work import tree_bytes
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster, Link, Tier
from parplan.hardware.network.fabric import Fabric
from parplan.sim.cluster.collective_simulation import GroupCollective, simulate_collectives
from parplan.sim.cluster.collective_steps import (
    ALGORITHMS,
    transfers,
    two_broadcast_trees,
    two_trees,
)
from parplan.sim.cluster.flows import Sharing
from parplan.sim.ticks import PS_PER_S

LIKE = cluster_preset("4xdgx-h100")
SHARINGS = ("fair", "fifo")
SIZES = st.sampled_from([0.0, 1.0, 1e3, 1e6, 123_456_789.0])
EXACT = [key for key in ALGORITHMS if key[0] != "tree" and key != ("ring", "broadcast")]


def machine(nodes: int, per_node: int, nics: int = 0) -> Cluster:
    """Ports of 100 GB/s inside; network interfaces of 10 GB/s for each rank together."""
    inside = Tier(
        name="node",
        size=per_node,
        link=Link(latency_s=2e-6, bytes_per_s=1e11),
        fabric=Fabric(kind="nvswitch", nominal_bytes_per_s=1e11),
    )
    network = Tier(
        name="cluster",
        size=nodes * per_node,
        link=Link(latency_s=6e-6, bytes_per_s=1e10),
        fabric=Fabric(
            kind="rail-fat-tree", nominal_bytes_per_s=1e10, nics_per_node=nics or per_node
        ),
    )
    return replace(LIKE, num_nodes=nodes, tiers=(inside, network) if nodes > 1 else (inside,))


def asked(
    op: str, num_bytes: float, ranks: Sequence[int], algorithm: str = "ring", pieces: int = 16
) -> GroupCollective:
    collective = Collective(op=op, num_bytes=num_bytes)
    return GroupCollective(collective=collective, ranks=ranks, algorithm=algorithm, pieces=pieces)


def closed_s(cluster: Cluster, group: GroupCollective) -> float:
    return collective_s(group.collective, group_of(cluster, group.ranks), [group.algorithm])


def check_closed_form(cluster: Cluster, group: GroupCollective, sharing: Sharing) -> None:
    simulated = simulate_collectives(cluster, [group], sharing)
    # A message is rounded up to a picosecond, its latency to the nearest: steps of two at most.
    steps = 4 * len(group.ranks)
    assert simulated.seconds[0] == pytest.approx(
        closed_s(cluster, group), rel=1e-12, abs=2 * steps / PS_PER_S
    )


@pytest.mark.parametrize("sharing", SHARINGS)
@given(
    key=st.sampled_from(EXACT), n=st.integers(2, 9), num_bytes=SIZES, layout=st.sampled_from("pn")
)
@settings(deadline=None)
def test_alone_on_equal_links_a_group_takes_what_its_closed_form_says(
    sharing: Sharing, key: tuple[str, str], n: int, num_bytes: float, layout: str
) -> None:
    assume(key[0] != "hierarchical")
    # All ranks in one node, or each in one of its own.
    cluster, ranks = (
        (machine(1, n), range(n)) if layout == "p" else (machine(n, 3), range(0, 3 * n, 3))
    )
    check_closed_form(cluster, asked(key[1], num_bytes, ranks, key[0]), sharing)


@pytest.mark.parametrize("sharing", SHARINGS)
@given(
    op=st.sampled_from([op for name, op in ALGORITHMS if name == "hierarchical"]),
    nodes=st.integers(2, 5),
    per_node=st.integers(2, 5),
    num_bytes=SIZES,
)
@settings(deadline=None)
def test_a_hierarchy_takes_what_its_closed_form_says(
    sharing: Sharing, op: str, nodes: int, per_node: int, num_bytes: float
) -> None:
    cluster = machine(nodes, per_node)
    group = asked(op, num_bytes, range(nodes * per_node), "hierarchical")
    check_closed_form(cluster, group, sharing)


@pytest.mark.parametrize("n", range(2, 12))
def test_a_broadcast_from_rank_to_rank_fills_its_pipe_piece_by_piece(n: int) -> None:
    cluster, size = machine(1, n), 1e8
    for pieces in (1, 5, 32):
        simulated = simulate_collectives(
            cluster, [asked("broadcast", size, range(n), pieces=pieces)]
        )
        expected = (n - 1) * 2e-6 + size / 1e11 * (1 + (n - 2) / pieces)
        assert simulated.seconds[0] == pytest.approx(expected, abs=4 * (n + pieces) / PS_PER_S)


@pytest.mark.parametrize("op", ["all_reduce", "broadcast"])
@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 13, 16])
def test_double_trees_tend_to_their_closed_form_as_pieces_shrink(op: str, n: int) -> None:
    cluster, errors = machine(1, n), []
    for pieces in (2, 512):
        group = asked(op, 1e8, range(n), "tree", pieces)
        simulated = simulate_collectives(cluster, [group])
        busiest = max(simulated.link_bytes.values())
        assert simulated.seconds[0] >= busiest / 1e11
        closed = closed_s(cluster, group)
        if op == "all_reduce" and n == 3:
            # Nobody has two children: the busiest port sends less than the closed form's 2 S.
            closed -= (tree_bytes(n, 1e8) - busiest) / 1e11
        errors.append(simulated.seconds[0] / closed - 1)
    assert abs(errors[1]) < 0.01
    assert errors[1] < errors[0] or n == 2
    nothing = asked(op, 0.0, range(n), "tree")
    assert simulate_collectives(cluster, [nothing]).seconds[0] <= closed_s(cluster, nothing) + 1e-11


@pytest.mark.parametrize(("nodes", "per_node"), [(2, 4), (3, 2)])
@pytest.mark.parametrize("key", sorted(ALGORITHMS))
def test_groups_of_several_nodes_use_all_their_interfaces(
    key: tuple[str, str], nodes: int, per_node: int
) -> None:
    cluster = machine(nodes, per_node)
    group = asked(key[1], 1e9, range(nodes * per_node), key[0], 64)
    ratio = simulate_collectives(cluster, [group]).seconds[0] / closed_s(cluster, group)
    if key == ("tree", "all_reduce"):  # The closed form holds for many nodes: an upper bound here.
        assert 0.5 < ratio < 1.02
    else:
        # What is passed on in pieces fills its pipe first.
        assert ratio == pytest.approx(1.0, abs=0.07 if key[1] == "broadcast" else 0.01)


@given(st.integers(2, 70))
def test_two_trees_share_no_inner_rank(n: int) -> None:
    for trees, first in ((two_trees(n), 0), (two_broadcast_trees(n), 1)):
        inner = [{parent for parent in tree if parent is not None} for tree in trees]
        for tree in trees:
            assert tree.count(None) == 1
        both = inner[0] & inner[1] - set(range(first))
        assert len(both) <= 2


@given(st.sampled_from(sorted(ALGORITHMS)), st.integers(1, 4), st.integers(1, 4), SIZES)
@settings(deadline=None)
def test_every_rank_sends_what_theory_says(
    key: tuple[str, str], nodes: int, per_node: int, size: float
) -> None:
    algorithm, op = key
    n = nodes * per_node
    assume(n > 1 and (algorithm != "hierarchical" or min(nodes, per_node) > 1))
    cluster = machine(nodes, per_node)
    simulated = simulate_collectives(cluster, [asked(op, size, range(n), algorithm)])
    across = [b for name, b in simulated.link_bytes.items() if "nic" in name and "out" in name]
    share = {"all_reduce": 2.0}.get(op, 1.0)
    if algorithm == "ring" and op != "broadcast" and nodes > 1:
        assert across == pytest.approx([share * (n - 1) / n * size / per_node] * len(across))
        assert len(across) == n
    elif algorithm == "ring" and op != "broadcast":
        ports = [b for name, b in simulated.link_bytes.items() if "port out" in name]
        assert ports == pytest.approx([share * (n - 1) / n * size] * n)
    elif algorithm == "hierarchical" and op != "all_to_all":
        assert across == pytest.approx([share * (nodes - 1) / nodes * size / per_node] * n)
    elif op == "all_to_all" and nodes > 1:
        assert sum(across) == pytest.approx(nodes * per_node * size * (n - per_node) / n)
    elif op == "broadcast":
        received = [b for name, b in simulated.link_bytes.items() if name.endswith("in")]
        assert sum(received) >= (n - 1) * size * (1 - 1e-9)
    elif algorithm == "tree" and nodes == 1:
        ports = [b for name, b in simulated.link_bytes.items() if "port out" in name]
        assert sum(ports) == pytest.approx(2 * (n - 1) * size)
        assert max(ports) <= tree_bytes(n, size) * (1 + 1e-9)


def test_an_all_reduce_adds_up_every_rank() -> None:
    """Each rank has received, by way of others, from all: what its last messages waited for."""
    for key, nodes in product(sorted(ALGORITHMS), (((0, 1, 2, 3, 4),), ((0, 1, 2), (3, 4, 5)))):
        if key[1] != "all_reduce" or (key[0] == "hierarchical" and len(nodes) == 1):
            continue
        sent = transfers(Collective(op="all_reduce", num_bytes=1.0), key[0], nodes, 3)
        known: list[set[int]] = []
        seen: dict[int, set[int]] = {rank: {rank} for node in nodes for rank in node}
        for transfer in sent:
            assert all(sent[other].destination == transfer.source for other in transfer.after)
            known.append({transfer.source}.union(*(known[other] for other in transfer.after)))
            seen[transfer.destination] |= known[-1]
        assert all(ranks == set(seen) for ranks in seen.values())


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter"])
def test_two_groups_behind_one_interface_take_twice_as_long(sharing: Sharing, op: str) -> None:
    cluster = machine(4, 4, nics=2)  # Ranks 0 and 1 of a node share an interface.
    groups = [asked(op, 1e9, range(start, 16, 4)) for start in (0, 1)]
    alone = simulate_collectives(cluster, groups[:1], sharing)
    both = simulate_collectives(cluster, groups, sharing)
    latency = simulate_collectives(cluster, [asked(op, 0.0, range(0, 16, 4))]).seconds[0]
    ratios = [(seconds - latency) / (alone.seconds[0] - latency) for seconds in both.seconds]
    steps = 6 if op == "all_reduce" else 3
    # First come, first served: they take turns, and the last turn is that of the second group.
    first = 2.0 if sharing == "fair" else (2 * steps - 1) / steps
    assert ratios == pytest.approx([first, 2.0], rel=1e-3)
    for name, num_bytes in alone.link_bytes.items():
        assert both.link_bytes[name] == 2 * num_bytes


@pytest.mark.parametrize("sharing", SHARINGS)
@given(data=st.data(), sizes=st.lists(SIZES, min_size=3, max_size=3))
@settings(deadline=None, max_examples=20)
def test_groups_on_rails_of_their_own_do_not_disturb_each_other(
    sharing: Sharing, data: st.DataObject, sizes: list[float]
) -> None:
    cluster = machine(4, 3)
    key = data.draw(st.sampled_from(sorted(k for k in ALGORITHMS if k[0] != "hierarchical")))
    groups = [asked(key[1], size, range(i, 12, 3), key[0]) for i, size in enumerate(sizes)]
    together = simulate_collectives(cluster, groups, sharing)
    alone = [simulate_collectives(cluster, [group], sharing) for group in groups]
    assert together.seconds == tuple(play.seconds[0] for play in alone)
    assert together.num_messages == sum(play.num_messages for play in alone)


@given(st.sampled_from(sorted(ALGORITHMS)), st.integers(2, 3), st.integers(2, 3), SIZES)
@settings(deadline=None)
def test_company_and_a_late_start_never_help(
    key: tuple[str, str], nodes: int, per_node: int, size: float
) -> None:
    cluster = machine(nodes, per_node)
    group = asked(key[1], size, range(nodes * per_node), key[0])
    alone = simulate_collectives(cluster, [group]).seconds[0]
    both = simulate_collectives(cluster, [group, replace(group, start_s=1e-3)]).seconds
    assert min(both) >= alone - 1e-9 * alone - 1e-9
    apart = simulate_collectives(cluster, [group, replace(group, start_s=1000.0)]).seconds
    assert apart == (alone, alone)


def test_a_group_in_the_same_order_gives_the_same_times() -> None:
    cluster = machine(2, 4, nics=2)
    groups = [asked("all_reduce", 1e7, range(start, 8, 2), "tree") for start in (0, 1)]
    for sharing in ("fair", "fifo"):
        assert simulate_collectives(cluster, groups, sharing) == simulate_collectives(
            cluster, groups, sharing
        )


def test_what_cannot_be_played_is_refused() -> None:
    cluster = machine(2, 2)
    for group, message in (
        (
            lambda: asked("all_gather", 1, [0, 1], "tree"),
            "all_gather by 'tree' cannot be simulated",
        ),
        (lambda: asked("send_recv", 1, [0, 1]), "nothing can"),
        (lambda: asked("all_reduce", 1, [0, 1], "hierarchical"), "needs several nodes"),
        (lambda: asked("all_reduce", 1, [0, 0]), "different ranks"),
        (lambda: asked("all_reduce", 1, [0, 4]), "rank 4"),
        (lambda: asked("broadcast", 1, [0, 1], pieces=0), "pieces: must be at least 1"),
    ):
        with pytest.raises(ParplanError, match=message):
            simulate_collectives(cluster, [group()])
    with pytest.raises(ParplanError, match="sharing: 'lottery' is not one of"):
        simulate_collectives(cluster, [], "lottery")  # type: ignore[arg-type]
