"""`parplan simulate --collective`: a collective message by message."""

import csv
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.experiments.commands.predict.simulate_collective import OPS, simulate_groups
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import Collective, choose
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.cluster.collective_simulation import GroupCollective, simulate_collectives

CLUSTER = cluster_preset("2xdgx-h100")
ASKED = ["simulate", "--cluster", "2xdgx-h100", "--collective"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["all-reduce", "all_reduce", "All-Reduce"])
def test_a_collective_of_all_ranks(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([*ASKED, name, "--bytes", "1e9"]) == 0
    asked = Collective(op="all_reduce", num_bytes=1e9)
    group = GroupCollective(collective=asked, ranks=range(16), algorithm="ring")
    played = simulate_collectives(CLUSTER, [group])
    closed = choose(asked, group_of(CLUSTER, range(16)), ["ring"])
    library = choose(asked, group_of(CLUSTER, range(16)))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "all-reduce of 1e+09 bytes, one group of 16 ranks, by ring"
    assert out[1].startswith(f"message by message: {played.seconds[0]:.4g} s")
    assert out[2].startswith(f"closed form: {closed.seconds:.4g} s ({closed.protocol} protocol")
    assert out[3].startswith(f"a library would choose in-switch: {library.seconds:.4g} s")
    with Path("out/simulate/links.csv").open() as file:
        rows = {row["link"]: float(row["bytes"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(played.link_bytes, abs=0.5)


def test_groups_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "all-gather", "--bytes", "1e8", "--group-size", "4"]) == 0
    assert "all-gather of 1e+08 bytes, 4 groups of 4 ranks" in capsys.readouterr().out
    found = simulate_groups(CLUSTER, "all-gather", 1e8, 4)
    assert len(found.simulated.seconds) == 4


@pytest.mark.parametrize("op", OPS)
def test_inside_a_node_the_closed_form_is_near(op: str) -> None:
    """The difference is what libraries lose to launches and ramps, or trees to their pieces."""
    found = simulate_groups(CLUSTER, op, 1e9, 8)
    assert max(found.simulated.seconds) == pytest.approx(found.closed.seconds, rel=0.15)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["all-redcue", "--bytes", "1e9"], "unknown collective 'all-redcue'; did you mean all-r"),
        (["send-recv", "--bytes", "1e9"], "unknown collective 'send-recv'"),
        (["all-reduce"], "--collective: needs --bytes"),
        (["all-reduce", "--bytes", "0"], "--bytes: must be positive and finite, got 0"),
        (["all-reduce", "--bytes", "1", "--group-size", "3"], "divide the 16 ranks of"),
        (["all-reduce", "--bytes", "1", "--group-size", "1"], "--group-size: must be at least 2"),
        (["all-reduce", "--bytes", "1", "--steps", "2"], "leave out --steps"),
        (["all-reduce", "--bytes", "1", "--cluster", "512xh100"], "at most 256 ranks"),
    ],
)
def test_wrong_input(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert main([*ASKED, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_bytes_that_are_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*ASKED, "all-reduce", "--bytes", "nan"])
    assert ended.value.code == 2
    assert "argument --bytes: expected a finite number, got 'nan'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "a plan.json (as written by parplan plan) or --collective is needed"),
        (["plan.json", "--bytes", "1e9"], "--bytes: needs --collective"),
        (["plan.json", "--group-size", "2"], "--group-size: needs --collective"),
        (["plan.json", "--collective", "all-reduce", "--bytes", "1"], "leave out the plan"),
        (["--collective", "all-reduce", "--bytes", "1"], "--cluster or --profile"),
        (["--collective", "all-reduce", "--bytes", "1", "--measured-step", "0"], "--measured-step"),
    ],
)
def test_either_a_plan_or_a_collective(
    capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert main(["simulate", *given]) == 2
    assert message in capsys.readouterr().err
