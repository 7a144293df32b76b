"""Hardware files of other simulators, with their units, as clusters."""

import json
from pathlib import Path
from typing import Any

import pytest

from parplan.experiments.cli import main
from parplan.hardware.machines.presets import read_cluster
from parplan.hardware.network.cluster import Cluster

CALCULON: dict[str, Any] = {
    "matrix": {"float16": {"tflops": 312, "gflops_efficiency": [[128, 0.95], [0, 0.1]]}},
    "vector": {"float16": {"tflops": 78, "gflops_efficiency": [[16, 0.9]]}},
    "mem1": {"GiB": 80, "GBps": 2000, "MB_efficiency": [[100, 0.9], [0, 0.3]]},
    "mem2": {"GiB": 512, "GBps": 30, "MB_efficiency": [[100, 0.9]]},
    "processing_mode": "no_overlap",
    "networks": [
        {"bandwidth": 300, "efficiency": 0.65, "size": 8, "latency": 1e-5, "ops": {}},
        {"bandwidth": 25, "efficiency": 0.9, "size": 65536, "latency": 2e-5, "ops": {}},
    ],
}

SIMUMAX: dict[str, Any] = {
    "sys_name": "example",
    "num_per_node": 8,
    "accelerator": {
        "mem_gbs": 80,
        "op": {
            "matmul": {
                "tflops": 312,
                "efficient_factor": 0.7,
                "accurate_efficient_factor": {"m=1": 0.8},
            }
        },
        "bandwidth": {"default": {"gbps": 1600, "efficient_factor": 0.9, "latency_us": 5}},
    },
    "networks": {
        "intra_with_pcie": False,
        "high_intra_node": {
            "bandwidth": {"gbps": 300, "efficient_factor": 0.7, "latency_us": 10},
            "op": {"all_reduce": {"scale": 2, "offset": -1, "latency_us": 6}},
        },
        "inter_node": {"bandwidth": {"gbps": 200, "efficient_factor": 0.9, "latency_us": 30}},
    },
}

ASTRA_SIM = """
topology: [ Switch, Ring ]
npus_count: [ 8, 4 ]
bandwidth: [ 400.0, 50.0 ]  # GB/s
latency: [ 500.0, 1000.0 ]  # ns
"""


def converted(
    source: str, text: str, name: str, *more: str, where: Path, monkeypatch: pytest.MonkeyPatch
) -> Cluster:
    monkeypatch.chdir(where)
    Path(name).write_text(text)
    command = ["hardware", "convert", name, "--from", source, *more, "-o", "converted.toml"]
    assert main(command) == 0
    return read_cluster(Path("converted.toml"))


def test_calculons_bandwidths_are_of_one_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--nodes", "4")
    text = json.dumps(CALCULON)
    found = converted("calculon", text, "a.json", *more, where=tmp_path, monkeypatch=monkeypatch)
    inner, outer = found.tiers
    assert (found.num_accelerators, found.num_nodes, inner.size) == (32, 4, 8)
    assert inner.link.bytes_per_s == pytest.approx(0.65 * 300e9)
    assert outer.link.bytes_per_s == pytest.approx(0.9 * 25e9)
    assert (inner.link.latency_s, outer.link.latency_s) == pytest.approx((1e-5, 2e-5))
    chip = found.accelerator
    assert chip.memory_bytes == 80 * 2**30
    assert chip.hbm_bytes_per_s == 2000e9
    assert (chip.gemm_efficiency, chip.hbm_efficiency) == (0.95, 0.9)
    assert chip.peak_flop_per_s.of("bf16") == 312e12


def test_simumaxs_bandwidth_between_nodes_is_of_a_node_and_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--nodes", "2")
    text = json.dumps(SIMUMAX)
    found = converted("simumax", text, "s.json", *more, where=tmp_path, monkeypatch=monkeypatch)
    inner, outer = found.tiers
    assert inner.link.bytes_per_s == pytest.approx(0.7 * 300 * 2**30)
    assert outer.link.bytes_per_s == pytest.approx(0.9 * 200 * 2**30 / 8)
    assert inner.link.latency_s == pytest.approx(6e-6)
    assert found.accelerator.hbm_bytes_per_s == pytest.approx(1600 * 2**30)
    assert found.accelerator.gemm_efficiency == 0.8
    assert "gbps 200: of a whole node, so that each of 8" in capsys.readouterr().err


def test_astra_sims_links_are_of_one_direction_and_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--accelerator", "h100-sxm")
    found = converted(
        "astra-sim", ASTRA_SIM, "n.yml", *more, where=tmp_path, monkeypatch=monkeypatch
    )
    inner, outer = found.tiers
    assert (inner.size, outer.size, found.num_nodes) == (8, 32, 4)
    assert inner.link.bytes_per_s == pytest.approx(400 * 2**30)
    # A ring has two links at each place, a switch is two links away.
    assert outer.link.bytes_per_s == pytest.approx(2 * 50 * 2**30)
    assert (inner.link.latency_s, outer.link.latency_s) == pytest.approx((1e-6, 1e-6))
    assert found.accelerator.name == "h100-sxm"


@pytest.mark.parametrize(
    ("source", "name", "text", "message"),
    [
        ("calculon", "a.json", "{}", "a.json: networks: expected a list"),
        ("simumax", "a.json", '{"networks": {}}', "a.json: missing key 'num_per_node'"),
        ("astra-sim", "a.yml", ASTRA_SIM, "says nothing of the accelerator"),
        ("astra-sim", "a.yml", "topology: [", "a.yml: not valid YAML"),
        (
            "astra-sim",
            "a.yml",
            ASTRA_SIM.replace("400.0", "tbd"),
            "bandwidth[0]: expected a positive number, got 'tbd'",
        ),
    ],
)
def test_mistakes_are_one_line(
    source: str,
    name: str,
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    assert main(["hardware", "convert", name, "--from", source]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.toml"))


def test_a_file_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(json.dumps(CALCULON))
    Path("a.toml").write_text("mine")
    assert main(["hardware", "convert", "a.json", "--from", "calculon"]) == 2
    assert "a.toml: is there already" in capsys.readouterr().err
    assert Path("a.toml").read_text() == "mine"


def test_rings_of_rings_are_one_torus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ASTRA_SIM.replace("Switch, Ring", "Ring, Ring").replace("8, 4", "4, 8")
    text = text.replace("400.0, 50.0", "50.0, 50.0").replace("500.0, 1000.0", "700.0, 700.0")
    more = ("--accelerator", "tpu-v5e")
    found = converted("astra-sim", text, "n.yml", *more, where=tmp_path, monkeypatch=monkeypatch)
    (tier,) = found.tiers
    assert (found.num_nodes, found.num_accelerators) == (1, 32)
    assert tier.fabric is not None
    assert (tier.fabric.kind, tier.fabric.dims) == ("torus", (4, 8))
    # Two links of 50 * 2^30 bytes/s in each of two dimensions.
    assert tier.link.bytes_per_s == pytest.approx(4 * 50 * 2**30)
    assert tier.link.latency_s == pytest.approx(7e-7)
    shown = capsys.readouterr()
    assert "infiniband" not in shown.out
    assert "mean" not in shown.err


def test_what_is_between_nodes_and_no_switch_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--accelerator", "h100")
    converted("astra-sim", ASTRA_SIM, "n.yml", *more, where=tmp_path, monkeypatch=monkeypatch)
    assert "topology[1] Ring: between nodes" in capsys.readouterr().err
