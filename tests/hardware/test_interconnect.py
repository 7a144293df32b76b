"""Which links a message crosses, and what it costs when it has them for itself."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_names, cluster_preset
from parplan.hardware.network.cluster import Cluster, Link, Tier
from parplan.hardware.network.fabric import Fabric, torus_dims
from parplan.hardware.network.interconnect import links_crossed, message_s

DGX = cluster_preset("4xdgx-h100")


def names(cluster: Cluster, source: int, destination: int) -> list[str]:
    return [link.name for link in links_crossed(cluster, source, destination)]


def with_fabric(cluster: Cluster, tier: int, **changes: object) -> Cluster:
    fabric = cluster.tiers[tier].fabric
    assert fabric is not None
    tiers = list(cluster.tiers)
    tiers[tier] = replace(tiers[tier], fabric=replace(fabric, **changes))  # type: ignore[arg-type]
    return replace(cluster, tiers=tuple(tiers))


@pytest.mark.parametrize("name", cluster_names())
def test_every_preset_has_a_way_between_its_ranks(name: str) -> None:
    cluster = cluster_preset(name)
    last = cluster.num_accelerators - 1
    for a, b in ((0, last), (last, 0), (0, min(1, last)), (last // 2, last)):
        links = links_crossed(cluster, a, b)
        assert bool(links) == (a != b)
        assert len({link.name for link in links}) == len(links)
        thinnest = min((link.bytes_per_s for link in links), default=1.0)
        latency_s = sum(link.latency_s for link in links)
        expected = latency_s + 1e6 / thinnest if links else 0.0
        assert message_s(cluster, a, b, 1e6) == pytest.approx(expected)


def test_a_switch_gives_each_accelerator_its_port() -> None:
    assert names(DGX, 9, 10) == ["node 1 accelerator 1 port out", "node 1 accelerator 2 port in"]
    link = DGX.tiers[0].link
    assert message_s(DGX, 9, 10, 1e9) == pytest.approx(link.transfer_s(1e9))


def test_one_rail_is_one_switch_and_another_rail_is_behind_the_spine() -> None:
    assert names(DGX, 1, 17) == ["node 0 nic 1 out", "node 2 nic 1 in"]
    across = names(DGX, 1, 18)
    assert across[1:3] == ["rail 1 uplinks out", "rail 2 uplinks in"]
    assert message_s(DGX, 1, 18, 1e9) == pytest.approx(DGX.tiers[1].link.transfer_s(1e9))


def test_ranks_that_share_an_interface_cross_the_same_link() -> None:
    cluster = cluster_preset("4xLarge.2048GB")
    shared = set(names(cluster, 0, 8)) & set(names(cluster, 1, 9))
    assert shared == {"node 0 nic 0 out", "node 1 nic 0 in"}
    (out, _) = links_crossed(cluster, 0, 8)
    assert out.bytes_per_s == pytest.approx(25e9 * 0.92)
    assert not set(names(DGX, 0, 8)) & set(names(DGX, 1, 9))


def test_oversubscription_thins_the_uplinks_alone() -> None:
    thin = with_fabric(DGX, 1, oversubscription=64.0)
    assert message_s(thin, 1, 17, 1e9) == message_s(DGX, 1, 17, 1e9)
    assert message_s(thin, 1, 18, 1e9) > message_s(DGX, 1, 18, 1e9)


def test_a_dragonfly_is_tapered_between_groups() -> None:
    frontier = with_fabric(cluster_preset("4xmi250x-4"), 2, nodes_per_switch=2)
    assert not any("uplinks" in name for name in names(frontier, 0, 8))
    assert names(frontier, 0, 16)[1:3] == ["group 0 uplinks out", "group 1 uplinks in"]


def test_a_mesh_gives_each_pair_its_own_link() -> None:
    cluster = cluster_preset("mi300x-8")
    assert names(cluster, 2, 5) == ["node 0 link 2 to 5"]
    assert links_crossed(cluster, 2, 5)[0].bytes_per_s == pytest.approx(64e9 * 0.7)


def test_a_partial_mesh_goes_through_a_neighbour() -> None:
    cluster = cluster_preset("dgx-1-v100")
    assert [link.bytes_per_s for link in links_crossed(cluster, 0, 3)] == [
        pytest.approx(2 * 25e9 * 0.9)
    ]
    assert names(cluster, 0, 7) == ["node 0 link 0 to 3", "node 0 link 3 to 7"] or names(
        cluster, 0, 7
    ) == ["node 0 link 0 to 4", "node 0 link 4 to 7"]


def test_pcie_switches_share_an_uplink() -> None:
    cluster = cluster_preset("pcie4-8")
    assert not any("uplink" in name for name in names(cluster, 0, 1))
    shared = set(names(cluster, 0, 4)) & set(names(cluster, 1, 5))
    assert shared == {"switch 0 uplink out", "switch 1 uplink in"}


def test_a_torus_takes_the_shorter_way_round() -> None:
    cluster = with_fabric(cluster_preset("16xtpu-v5e"), 0, dims=(4, 4))
    assert len(names(cluster, 0, 3)) == 1
    assert len(names(cluster, 0, 2)) == 2
    assert len(names(cluster, 0, 15)) == 2
    assert names(cluster, 0, 1) == ["slice 0 link 0,0 +0"]


@given(st.integers(1, 5000), st.integers(1, 3))
def test_a_torus_holds_all_its_places(size: int, num_dims: int) -> None:
    dims = torus_dims(size, num_dims)
    product = 1
    for dim in dims:
        product *= dim
    assert (product, len(dims)) == (size, num_dims)
    assert torus_dims(64, 3) == (4, 4, 4)


@given(st.sampled_from(["4xdgx-h100", "2xpcie4-8", "4xLarge.2048GB", "64xtpu-v4"]), st.data())
@settings(deadline=None)
def test_there_and_back_are_links_of_their_own(name: str, data: st.DataObject) -> None:
    cluster = cluster_preset(name)
    ranks = st.integers(0, cluster.num_accelerators - 1)
    a, b = data.draw(ranks), data.draw(ranks)
    assert message_s(cluster, a, b, 1e7) == pytest.approx(message_s(cluster, b, a, 1e7))
    assert not set(names(cluster, a, b)) & set(names(cluster, b, a))


def test_a_tier_without_a_fabric_has_ports() -> None:
    link = Link(latency_s=1e-6, bytes_per_s=1e9)
    plain = replace(DGX, num_nodes=1, tiers=(Tier(name="host", size=2, link=link),))
    assert names(plain, 0, 1) == ["host 0 accelerator 0 port out", "host 0 accelerator 1 port in"]
    assert message_s(plain, 0, 1, 1e9) == pytest.approx(link.transfer_s(1e9))


def test_mistakes_are_refused() -> None:
    with pytest.raises(ParplanError, match="rank 32: 4xdgx-h100 has ranks 0 to 31"):
        links_crossed(DGX, 0, 32)
    with pytest.raises(ParplanError, match="num_bytes: must not be negative"):
        message_s(DGX, 0, 1, -1)
    for changes, message in (
        ({"kind": "string"}, "fabric: 'string' is not one of die|fabric: 'string' is not one of"),
        ({"oversubscription": 0.5}, "oversubscription: must be 1 or more"),
        ({"nodes_per_switch": 0}, "nodes_per_switch: must be 1 or more"),
        ({"peer_links": ((0, 1), (2, 0))}, "must be symmetric"),
    ):
        with pytest.raises(ParplanError, match=message):
            Fabric(**{"kind": "nvswitch", "nominal_bytes_per_s": 1e9, **changes})  # type: ignore[arg-type]
