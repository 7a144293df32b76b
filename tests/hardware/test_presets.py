"""Presets of accelerators and clusters, and cluster files of the user's own."""

from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import (
    ACCELERATORS,
    CLUSTERS,
    accelerator_names,
    accelerator_preset,
    accelerator_table,
    cluster_names,
    cluster_preset,
    preset_aliases,
    read_cluster,
)

# Dies and memory per flavor: documentation of Moreh's MoAI Platform, 2024.
FLAVORS = {
    "Small.64GB": (1, 1),
    "Medium.128GB": (2, 1),
    "Large.256GB": (4, 1),
    "xLarge.512GB": (8, 1),
    "1.5xLarge.768GB": (12, 2),
    "2xLarge.1024GB": (16, 2),
    "3xLarge.1536GB": (24, 3),
    "4xLarge.2048GB": (32, 4),
    "6xLarge.3072GB": (48, 6),
    "8xLarge.4096GB": (64, 8),
    "12xLarge.6144GB": (96, 12),
    "24xLarge.12288GB": (192, 24),
    "48xLarge.24576GB": (384, 48),
}


@pytest.mark.parametrize("name", accelerator_names())
def test_every_accelerator_is_plausible(name: str) -> None:
    device = accelerator_preset(name)
    rates = device.peak_flop_per_s
    wide = rates.bf16 or rates.fp16 or rates.fp32
    assert wide is not None
    assert 1e10 < wide < 1e16
    # FLOP per byte of memory traffic: a rate in the wrong unit would be far out.
    assert 3 < wide / device.hbm_bytes_per_s < 600
    # A rate with sparsity among dense ones would be four times the next wider one.
    if rates.fp8 and rates.bf16:
        assert rates.fp8 < 2.1 * rates.bf16
    assert 2 * 10**9 < device.memory_bytes < 600 * 10**9


@pytest.mark.parametrize("name", cluster_names())
def test_every_cluster_has_nested_tiers(name: str) -> None:
    cluster = cluster_preset(name)
    sizes = [tier.size for tier in cluster.tiers]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == cluster.num_accelerators
    assert cluster.name == name


@pytest.mark.parametrize("name", FLAVORS)
def test_the_flavors_of_advanced_parallelization(name: str) -> None:
    cluster = cluster_preset(name.lower())
    assert (cluster.num_accelerators, cluster.num_nodes) == FLAVORS[name]
    assert cluster.accelerator.memory_bytes == 65_520 * 2**20
    assert cluster.name == name


@pytest.mark.parametrize(
    ("name", "devices", "nodes", "tiers"),
    [
        ("64xh100", 64, 8, [8, 64]),
        ("4xh100", 4, 1, [4]),
        ("4xDGX-H100", 32, 4, [8, 32]),
        ("dgx-a100", 8, 1, [8]),
        ("1xa100", 1, 1, [1]),
        ("16xmi250", 16, 2, [2, 8, 16]),
    ],
)
def test_clusters_on_the_fly(name: str, devices: int, nodes: int, tiers: list[int]) -> None:
    cluster = cluster_preset(name)
    assert (cluster.num_accelerators, cluster.num_nodes) == (devices, nodes)
    assert [tier.size for tier in cluster.tiers] == tiers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("64xh10", "unknown cluster '64xh10'; did you mean 64xh"),
        ("4xLarge.2048", "did you mean 4xLarge.2048GB"),
        ("32h100", "did you mean 32xh100"),
        ("0xh100", "needs at least one accelerator"),
        ("13xh100", "13 accelerators cannot be spread evenly over 2 nodes of 8"),
    ],
)
def test_an_unknown_cluster_suggests_near_ones(name: str, message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        cluster_preset(name)


def test_an_unknown_accelerator_suggests_near_ones() -> None:
    with pytest.raises(ParplanError, match="unknown accelerator 'h1000'; did you mean"):
        accelerator_preset("h1000")


@pytest.mark.parametrize(
    ("name", "preset", "gigabytes"),
    [
        ("8xA800", "a800-sxm-80gb", 80),
        ("8x3090", "rtx-3090", 24),
        ("4xa40", "a40", 48),
        ("8xA6000", "rtx-a6000", 48),
        ("8xL20", "l20", 48),
        ("16xh100-96gb", "h100-sxm-96gb", 96),
        ("8xh100-96gb-hbm2e", "h100-sxm-96gb-hbm2e", 96),
        ("2xhgx-b300", "b300", 288),
        ("gb300-nvl72", "gb300", 288),
    ],
)
def test_accelerators_that_people_have(name: str, preset: str, gigabytes: float) -> None:
    device = cluster_preset(name).accelerator
    assert device.name == preset
    # In GB or, as some data sheets have it, in GiB, less what the driver takes.
    assert 0.92 * gigabytes < device.memory_bytes / 1e9 <= 1.0738 * gigabytes


def test_an_a800_differs_from_an_a100_by_its_links() -> None:
    a800, a100 = cluster_preset("8xa800"), cluster_preset("8xa100")
    assert a800.accelerator.peak_flop_per_s == a100.accelerator.peak_flop_per_s
    ours, theirs = (cluster.tiers[0].link.bytes_per_s for cluster in (a800, a100))
    assert ours / theirs == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "near"),
    [("8xa6000s", "8xa6000"), ("8xrtx3090ti", "8xrtx3090"), ("hgxb300", "hgx-b300")],
)
def test_an_alias_is_suggested_as_well(name: str, near: str) -> None:
    with pytest.raises(ParplanError, match=f"did you mean .*{near}"):
        cluster_preset(name)


def test_no_name_means_two_things() -> None:
    others = preset_aliases()
    names = [name.casefold() for one, also in others.items() for name in (one, *also)]
    assert sorted(names) == sorted(set(names))


def test_every_gpu_has_a_board_power_with_its_source() -> None:
    for name in accelerator_names():
        table = accelerator_table(name)
        if not name.startswith(("tpu", "cpu")):
            assert 70 <= (table.board_power_w or 0) <= 1400, name
        assert (table.board_power_w is None) == (table.sources.power is None), name


OWN = """
[cluster.lab]
title = "Two of our servers"
node = "ours"
num_nodes = 2
source = "measured"

[node.ours]
title = "Our server"
accelerator = "rtx-4090"
accelerators = 4
source = "measured"

[[node.ours.inside]]
name = "node"
fabric = "pcie"
link_gb_per_s_per_direction = 20
latency_us = 5
efficiency = 0.8
source = "measured"

[[node.ours.network]]
name = "cluster"
fabric = "fat-tree"
nics_per_node = 1
nic_gb_per_s_per_direction = 10
latency_us = 20
efficiency = 0.5
source = "measured"
"""


def test_a_cluster_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(OWN)
    cluster = read_cluster(path)
    assert (cluster.name, cluster.num_accelerators, cluster.num_nodes) == ("lab", 8, 2)
    assert cluster.accelerator == accelerator_preset("rtx-4090")
    inner, outer = (tier.link for tier in cluster.tiers)
    assert (inner.bytes_per_s, inner.latency_s) == (20e9 * 0.8, pytest.approx(5e-6))
    # One interface for four accelerators.
    assert (outer.bytes_per_s, outer.latency_s) == (10e9 * 0.5 / 4, pytest.approx(20e-6))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_nodes = 2", "num_nodes = 'two'", "lab.num_nodes: expected int, got 'two'"),
        ("num_nodes = 2", "nodes = 2", "lab: unknown key 'nodes'"),
        ('node = "ours"', 'node = "our"', "unknown node 'our'; did you mean ours"),
        ('accelerator = "rtx-4090"', 'accelerator = "rtx"', "unknown accelerator 'rtx'"),
        ("= 20\n", "= -20\n", r"ours.network\[0\]: latency_us: must be at least 0"),
        ("latency_us = 5", "latency_us = nan", "expected a finite number"),
        ("[cluster.lab]", "[clusters.lab]", "unknown table 'clusters'"),
        ("[cluster.lab]", "[node.lab]", r"expected one \[cluster.NAME\], got 0"),
    ],
)
def test_a_malformed_cluster_is_refused_by_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "lab.toml"
    assert old in OWN
    path.write_text(OWN.replace(old, new))
    with pytest.raises(ParplanError, match=message):
        read_cluster(path)


def test_every_value_names_its_source() -> None:
    for path in (ACCELERATORS, CLUSTERS):
        text = path.read_text()
        assert text.count("source") >= text.count("\n[[")
