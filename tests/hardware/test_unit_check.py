"""Rates in a mistaken unit are noticed; presets are not."""

import dataclasses
from pathlib import Path

import pytest

from parplan.hardware.machines.presets import cluster_names, cluster_preset, every_preset
from parplan.hardware.machines.unit_check import unit_warnings
from parplan.hardware.network.cluster import Cluster
from tests.commands import parplan

CLUSTER = cluster_preset("64xh100")


def test_every_preset_is_there_and_none_is_warned_about() -> None:
    presets = every_preset()
    assert len([p for p in presets if isinstance(p, Cluster)]) == len(cluster_names())
    for preset in presets:
        assert unit_warnings(preset) == []


def test_a_rate_a_thousand_times_off_names_the_nearest_preset() -> None:
    device = CLUSTER.accelerator
    for factor, word in ((1e3, "high"), (1e-3, "low")):
        rates = dataclasses.replace(
            device.peak_flop_per_s, bf16=device.peak_flop_per_s.of("bf16") * factor
        )
        wrong = dataclasses.replace(device, peak_flop_per_s=rates)
        (warning,) = unit_warnings(wrong)
        assert f"peak_flop_per_s.bf16: {rates.bf16:.4g} looks 1000 times too {word}" in warning
        assert device.name in warning


@pytest.mark.parametrize("factor", [1e3, 1e9, 1e-3])
def test_memory_bandwidth_in_another_unit(factor: float) -> None:
    device = CLUSTER.accelerator
    wrong = dataclasses.replace(device, hbm_bytes_per_s=device.hbm_bytes_per_s * factor)
    (warning,) = unit_warnings(wrong)
    assert "hbm_bytes_per_s" in warning


def test_a_network_in_bits() -> None:
    *inside, network = CLUSTER.tiers
    link = dataclasses.replace(network.link, bytes_per_s=network.link.bytes_per_s * 8)
    wrong = dataclasses.replace(CLUSTER, tiers=(*inside, dataclasses.replace(network, link=link)))
    (warning,) = unit_warnings(wrong)
    assert f"tiers.{network.name}.bytes_per_s" in warning
    assert "8 (bits for bytes) times too high" in warning


def test_a_cluster_file_in_another_unit_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[cluster.own]\ntitle = "own"\nnode = "own"\nnum_nodes = 2\nsource = "own"\n'
        '[node.own]\ntitle = "own"\naccelerator = "h100-sxm"\naccelerators = 8\nsource = "own"\n'
        '[[node.own.network]]\nname = "cluster"\nfabric = "fat-tree"\nnics_per_node = 8\n'
        'nic_gb_per_s_per_direction = 50000\nlatency_us = 5\nefficiency = 0.9\nsource = "own"\n'
    )
    done = parplan(
        *("plan", "gpt-tiny", "--cluster", "own.toml", "--seq-len", "64"),
        *("--global-batch", "16"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("parplan: warning: own.toml: own: tiers.cluster.bytes_per_s: 4.5e+13")
    assert "looks 1000 times too high" in first
