"""Tokens that are sent once to a node and to a rank, against a count of every possible choice."""

from itertools import combinations

import pytest

from parplan.hardware.collectives.expert_dispatch import dispatch_s, dispatch_work, needed_share
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import Collective, collective_s
from parplan.hardware.collectives.work import work
from parplan.hardware.machines.presets import cluster_preset

MB = 1e6


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
def test_the_share_of_parts_is_that_of_all_choices(num_parts: int) -> None:
    size = 8 // num_parts
    needed = [len({e // size for e in chosen}) for chosen in combinations(range(8), 3)]
    mean = sum(needed) / len(needed) / num_parts
    assert needed_share(8, 3, num_parts) == pytest.approx(mean)


@pytest.mark.parametrize(("num_ranks", "num_nodes"), [(4, 1), (4, 2), (8, 2), (8, 4)])
def test_the_bytes_are_those_of_all_choices(num_ranks: int, num_nodes: int) -> None:
    """A token of rank 0 goes to the rank with its place on each node, and from there to others."""
    m = num_ranks // num_nodes
    across, inside, count = 0, 0, 0
    for chosen in combinations(range(8), 3):
        ranks = {expert * num_ranks // 8 for expert in chosen}
        across += len({rank // m for rank in ranks} - {0})
        inside += sum(rank % m != 0 for rank in ranks)
        count += 1
    done = dispatch_work(8, 3, num_ranks, num_nodes, 3 * MB)
    # All m ranks of the node send; what rank 0's place hands on, every place hands on.
    assert done.across_bytes == pytest.approx(m * MB * across / count)
    assert done.inside_bytes == pytest.approx(MB * inside / count)


def test_one_expert_for_each_token_is_an_all_to_all() -> None:
    plain = work("all_to_all", "direct", 32, 4, MB)
    assert plain is not None
    assert dispatch_work(32, 1, 32, 4, MB).across_bytes == pytest.approx(plain.across_bytes)
    one_node = work("all_to_all", "direct", 8, 1, MB)
    assert one_node is not None
    assert dispatch_work(8, 1, 8, 1, MB).inside_bytes == pytest.approx(one_node.inside_bytes)


def test_the_network_carries_less_than_with_a_copy_for_each_expert() -> None:
    cluster = cluster_preset("64xh100")
    group = group_of(cluster, range(64))
    size = 8 * 4096 * 7168 * 2.0
    copies_s = collective_s(Collective(op="all_to_all", num_bytes=size), group)
    # 8 nodes: of 8 experts a token has some on 5.25 of 8 nodes, 4.6 of them others.
    assert dispatch_s(256, 8, group, size) < 0.7 * copies_s
    assert dispatch_s(256, 8, group_of(cluster, range(1)), size) == 0.0
