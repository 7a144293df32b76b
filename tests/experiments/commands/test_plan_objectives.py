"""`parplan plan --objective`: what is optimised, said, written, refused, taken up again."""

import csv
import json
import signal
from pathlib import Path

import pytest

from parplan._journal import journal_bytes, read_journal
from parplan.experiments.cli import main
from tests.commands import start, wait_for

WORKLOAD = ("llama3-8b", "--seq-len", "4096", "--global-batch", "32")
PLAN = ("plan", *WORKLOAD, "--cluster", "8xh100", "--space", "full")
PROVEN = (*PLAN, "--planner", "branch-and-bound")


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> object:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        assert main(list(arguments)) == code
        return "".join(reversed(capsys.readouterr()))

    return run


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "plan" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_least_memory_is_another_plan_than_the_fastest(said, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    err = said(*PLAN, "--objective", "head-room", "--pareto")
    most = [
        max(map(float, r["memory_bytes_per_stage"].split()))
        for r in trials(tmp_path)
        if r["step_s"]
    ]
    predicted = json.loads((tmp_path / "out/plan/plan.json").read_text())["predicted"]
    assert max(predicted["memory_bytes_per_stage"]) == min(most)
    assert "of the memory is free" in err
    with (tmp_path / "out/plan/pareto.csv").open() as file:
        front = list(csv.DictReader(file))
    times = [float(row["step_s"]) for row in front]
    memory = [float(row["memory_gb"]) for row in front]
    assert times == sorted(times)
    assert memory == sorted(memory, reverse=True)
    assert min(times) == min(float(r["step_s"]) for r in trials(tmp_path) if r["step_s"])
    assert (tmp_path / "out/plan/pareto.png").read_bytes().startswith(b"\x89PNG")
    # Proven by bounds, it is the same plan with as much memory.
    assert "; proven: " in said(*PROVEN, "--objective", "head-room")
    again = json.loads((tmp_path / "out/plan/plan.json").read_text())["predicted"]
    assert max(again["memory_bytes_per_stage"]) == min(most)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("cost", "--tokens", "1e12", "--price-per-hour", "2.5"), r"cost: [\d,]+\n"),
        (("energy", "--tokens", "1e12"), r"energy: [\d,]+ kWh\n"),
        (("training-time", "--tokens", "1e12"), r"training-time: [\d.]+ days\n"),
        (("tokens-per-accelerator",), r"tokens-per-accelerator: [\d,]+ tokens/s\n"),
        (
            ("goodput", "--tokens", "1e12", "--accelerator-mtbf-hours", "5e4"),
            r"goodput: [\d,]+ tokens/s; a checkpoint every \d+ steps\n",
        ),
        (("expected-step-time", "--noise", "0.1"), r"expected-step-time: [\d.]+ s, [\d.]+% above"),
        (("expected-step-time", "--straggler", "1.5:0.1"), r"expected-step-time: [\d.]+ s"),
    ],
)
def test_every_objective_says_its_value(said, options: tuple[str, ...], line: str) -> None:  # type: ignore[no-untyped-def]
    import re

    err = said(*PROVEN, "--objective", *options)
    assert re.search(line, err), err
    assert "proven: no plan of the space is" in err


def test_the_fewest_accelerators_in_time(said, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    several = ("plan", *WORKLOAD, "--space", "full", "--planner", "branch-and-bound")
    some = ("--cluster", "32xh100,8xh100,16xh100", "--objective", "fewest-accelerators")
    fast = ("--software", "megatron")
    err = said(*several, *some, *fast, "--tokens", "1e11", "--deadline-days", "7")
    assert "8xh100" in err.splitlines()[0]
    assert ": too late" in err.splitlines()[0]
    assert "16xh100" in err.splitlines()[1]
    assert ": in time" in err.splitlines()[1]
    assert "32xh100" not in err
    assert json.loads((tmp_path / "out/plan/plan.json").read_text())["cluster"] == "16xh100"
    late = said(*several, *some, "--tokens", "1e11", "--deadline-days", "0.1", code=1)
    assert "no cluster of these is fast enough" in late


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "cost"), "--price-per-hour: the cost needs"),
        (("--objective", "goodput", "--tokens", "1e9"), "--accelerator-mtbf-hours: the goodput"),
        (("--objective", "training-time"), "--tokens: this objective needs"),
        (("--objective", "speed"), "unknown objective 'speed'"),
        (("--objective", "expected-step-time"), "needs --noise or --straggler"),
        (("--objective", "expected-step-time", "--straggler", "1.5"), "expected FACTOR:SHARE"),
        (("--objective", "fewest-accelerators"), "name several, as in 8xh100,16xh100"),
        (("--budget", "0"), "budget: at least 1 evaluation, got 0"),
        (("--tokens", "-1"), "tokens: must be above 0"),
    ],
)
def test_what_cannot_be(said, options: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    err = said(*PROVEN, *options, code=2)
    assert message in err
    assert len(err.splitlines()) == 1


def test_what_does_not_fit_is_told_what_would(said) -> None:  # type: ignore[no-untyped-def]
    err = said(
        *("plan", "gpt3-175b", "--cluster", "8xh100", "--seq-len", "2048", "--global-batch", "32"),
        *("--space", "full", "--planner", "branch-and-bound"),
        code=1,
    )
    assert "proven: no plan of the space fits" in err
    assert "no candidate is possible; the closest: stage" in err
    assert "it would fit with" in err
    assert "devices with full recomputation and ZeRO-3" in err


def test_a_search_is_taken_up_where_it_ended(said, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    walk = (*PLAN, "--planner", "random", "--seed", "5")
    assert "40 evaluations of 606 plans; budget used up; not proven" in said(
        *walk, "--budget", "40"
    )
    first = trials(tmp_path)
    said(*walk, "--budget", "90", "--resume")
    taken_up = trials(tmp_path)
    said(*walk, "--budget", "90")
    assert taken_up == trials(tmp_path)
    assert taken_up[:40] == first
    record = tmp_path / "out/plan/search.jsonl"
    head, *rows = read_journal(record)
    best = min((row for row in rows if row["step_s"]), key=lambda row: row["step_s"])
    best["step_s"] -= 0.1
    record.write_bytes(journal_bytes([head, *rows]))
    assert "is of another version of parplan" in said(*walk, "--resume", code=2)
    record.write_bytes(journal_bytes([head, *rows, {}]))
    assert "line 92: not a trial" in said(*walk, "--resume", code=2)
    other = ("plan", *WORKLOAD, "--cluster", "16xh100", "--space", "full", "--planner", "random")
    assert "is of another search: cluster: 8xh100, not 16xh100" in said(*other, "--resume", code=2)


@pytest.mark.timeout(120)
def test_an_interrupted_search_keeps_what_it_has(tmp_path: Path) -> None:
    big = ("plan", "gpt3-175b", "--cluster", "1024xa100-80gb", "--seq-len", "2048")
    walk = (*big, "--global-batch", "1536", "--space", "full", "--planner", "random")
    process = start(*walk, "--budget", "5000", cwd=tmp_path)
    folder = tmp_path / "out" / "plan"
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "evaluations (" in line
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, rest
    assert "interrupted; --resume goes on from here" in rest
    wait_for(lambda: (folder / "search.jsonl").exists(), 1)
    assert len((folder / "search.jsonl").read_text().splitlines()) > 1
    assert (folder / "trials.csv").exists()
