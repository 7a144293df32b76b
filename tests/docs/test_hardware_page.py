"""The page about the machine: its example is read, its command prints what it shows."""

import re
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.hardware.machines.presets import read_cluster
from parplan.hardware.machines.unit_check import unit_warnings
from parplan.hardware.network.cluster import Cluster
from parplan.hardware.network.fabric import FABRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "example.toml"
    path.write_text(block)
    return read_cluster(path)


def test_the_example_is_a_cluster_with_plausible_units(example: Cluster) -> None:
    assert example.num_accelerators == 32
    assert example.accelerator.name == "example-chip"
    assert example.accelerator.kernels is None
    assert not unit_warnings(example)


@pytest.mark.usefixtures("example")
def test_the_command_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    ((command, shown),) = re.findall(
        r"```console\n\$ parplan (hardware .*?)\n(.*?)```", PAGE, flags=re.DOTALL
    )
    assert main(command.split()) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.usefixtures("example")
def test_the_example_can_be_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"`parplan (plan .*?)`", PAGE)
    assert main(command.split()) == 0
    assert "tokens/s" in "".join(capsys.readouterr())


def test_every_fabric_is_in_the_table() -> None:
    table = PAGE.split("## Sharing")[1].split("## ")[0]
    rows = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([^`]+)`", rows)) == set(FABRICS)


def test_every_file_that_is_named_exists() -> None:
    for name in ("hardware.md", "accuracy.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / "docs" / target).exists(), target
