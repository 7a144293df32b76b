"""`parplan hardware`: what it prints, and its refusals."""

import pytest

from parplan.experiments.cli import main
from parplan.hardware.presets import accelerator_names, cluster_names


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


def test_two_are_compared_by_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "compare", "a100-sxm-40gb", "a100-sxm-80gb").splitlines()
    (memory,) = (line.split() for line in lines if line.startswith("memory [GB]"))
    assert memory[2:] == ["40", "80", "2.00"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "h1000"], "unknown hardware 'h1000'; did you mean"),
        (["show", "64xh10"], "unknown cluster '64xh10'; did you mean"),
        (["compare", "h100-sxm", "a1000"], "unknown accelerator 'a1000'"),
    ],
)
def test_unknown_names_suggest_near_ones(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["hardware", *words]) == 2
    assert message in capsys.readouterr().err
