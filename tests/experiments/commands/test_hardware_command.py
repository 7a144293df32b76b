"""`parplan hardware`: what it prints, and its refusals."""

import re
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.hardware.machines.presets import accelerator_names, cluster_names, cluster_preset
from parplan.hardware.network.collective_efficiency import class_of, read_efficiencies


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["hardware", *words]) == 0
    return capsys.readouterr().out


def test_every_preset_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    words = {line.split()[0] for line in printed(capsys, "list").splitlines() if line.strip()}
    assert {*accelerator_names(), *cluster_names()} <= words


def test_an_accelerator_is_shown_with_the_source_of_every_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = printed(capsys, "show", "H100-SXM")
    for label in ("bf16 [TFLOP/s, dense]", "memory bandwidth [GB/s]", "source of rates"):
        assert label in out


def test_a_cluster_is_shown_with_its_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "show", "4xLarge.2048GB")
    assert "package of 2" in out
    assert "node of 8" in out
    assert "cluster of 32" in out


def rows(text: str) -> dict[str, str]:
    """The lines of a table of labels and values."""
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in text.splitlines())


@pytest.mark.parametrize("name", ["64xh100", "dgx-1-v100", "tpu-v4-pod", "selene"])
def test_a_cluster_is_shown_as_the_planner_sees_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, cluster = rows(printed(capsys, "show", name)), cluster_preset(name)
    assert shown["accelerators"] == f"{cluster.num_accelerators}"
    classes = read_efficiencies()
    for number, tier in enumerate(cluster.tiers, start=1):
        assert tier.fabric is not None
        assert shown[f"tier {number}"] == f"{tier.name} of {tier.size}"
        assert shown[f"tier {number} fabric"].split(",")[0] == tier.fabric.kind
        rate = float(shown[f"tier {number} long messages [GB/s]"])
        assert rate == pytest.approx(tier.link.bytes_per_s / 1e9, rel=1e-3)
        assert float(shown[f"tier {number} latency [us]"]) == tier.link.latency_s * 1e6
        used = class_of(tier.fabric, classes) or "plain latency and bandwidth"
        assert shown[f"tier {number} collectives"] == used


def test_a_cluster_of_ones_own_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[cluster.own]\ntitle = "own"\nnode = "dgx-h100"\nnum_nodes = 3\nsource = "here"\n'
    )
    assert rows(printed(capsys, "show", str(path)))["accelerators"] == "24"
    assert "24" in printed(capsys, "compare", str(path), "8xh100")


def test_two_clusters_are_compared_tier_by_tier(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "compare", "64xh100", "8xh100").splitlines()
    (devices,) = (line.split() for line in lines if line.startswith("accelerators"))
    assert devices[1:] == ["64", "8", "0.12"]
    (network,) = (line.split() for line in lines if line.startswith("tier 2  "))
    assert network[-1] == "-"


def test_an_unknown_action_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["hardware", "shw", "h100"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'shw'" in line
    assert "show" in line


def test_two_are_compared_by_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "compare", "a100-sxm-40gb", "a100-sxm-80gb").splitlines()
    (memory,) = (line.split() for line in lines if line.startswith("memory [GB]"))
    assert memory[2:] == ["40", "80", "2.00"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "h1000"], "unknown hardware 'h1000'; did you mean"),
        (["show", "64xh10"], "unknown cluster '64xh10'; did you mean"),
        (["show", "h100-sx"], "unknown hardware 'h100-sx'; did you mean h100-sxm"),
        (["show", "0xh100"], "cluster '0xh100': needs at least one accelerator"),
        (["show", "own.toml"], "own.toml: cannot be read"),
        (["compare", "h100-sxm", "a1000"], "unknown hardware 'a1000'; did you mean"),
        (["compare", "64xh10", "h100-sxm"], "unknown cluster '64xh10'; did you mean"),
        (["compare", "h100", "8xh100"], "compare: h100 is an accelerator, 8xh100 a cluster"),
    ],
)
def test_unknown_names_suggest_near_ones(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["hardware", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
