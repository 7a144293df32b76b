"""The best plans again at levels of rising fidelity: who goes on, and what is said of it."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from parplan.backend.execution import execute as backend_execute
from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.commands.predict import plan as plan_command
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.explain.fidelity import (
    Level,
    bounds_level,
    compared,
    contended_level,
    exact_level,
)
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

PLANS = [Plan(batch_per_device=n) for n in range(1, 9)]


def saying(seconds: dict[int, float | str], asked: list[int]) -> Level:
    def level(plans: object) -> dict[Plan, float | str]:
        asked.append(len(plans))  # type: ignore[arg-type]
        return {p: seconds.get(p.batch_per_device, 1.0 * p.batch_per_device) for p in plans}  # type: ignore[attr-defined]

    return level


def test_the_better_half_goes_on() -> None:
    asked: list[int] = []
    levels = {
        "one": saying({8: 0.5}, asked),
        "two": saying({1: 9.0, 2: "not here"}, asked),
        "three": saying({3: 7.0, 8: 6.0}, asked),
    }
    found = compared(PLANS, levels)
    assert asked == [8, 4, 2]
    names = [s.plan.batch_per_device for s in found]
    # At the second level: 8 (8 s), 1 (9 s), 2 (2 s, by the first level), 3 (3 s).
    assert names[:2] == [2, 3]
    assert [len(s.outcomes) for s in found] == [3, 3, 2, 2, 1, 1, 1, 1]
    assert found[0].last_s == 2.0
    assert found[1].change("three") == 7.0 / 3.0 - 1
    assert found[0].change("two") is None
    with pytest.raises(ParplanError, match="no plan to compare"):
        compared([], levels)


def test_levels_rise() -> None:
    workload = Workload(
        model=model_preset("llama3-8b"), seq_len=2048, global_batch=32, framework=NO_OVERHEAD
    )
    cluster = cluster_preset("16xh100")
    plans = [
        Plan(
            num_stages=4,
            num_micro_batches=8,
            data_parallel=4,
            tensor_parallel=1,
            schedule=name,
            virtual_stages=virtual,
        )
        for name, virtual in (("1f1b", 1), ("interleaved-1f1b", 2), ("zb-h1", 1), ("dualpipe-v", 2))
    ]
    bound, exact, contended = (
        make(workload, cluster)(plans) for make in (bounds_level, exact_level, contended_level)
    )
    for plan in plans:
        assert isinstance(bound[plan], float)
        assert bound[plan] <= exact[plan]
        if plan.schedule == "dualpipe-v":
            assert "cannot be simulated" in str(contended[plan])
        else:
            # Only messages change: a few microseconds each.
            assert contended[plan] == pytest.approx(exact[plan], rel=0.05)


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    return ("plan", "llama3-8b", "--seq-len", "2048", "--global-batch", "32", "--space", "full")


def test_the_levels_are_printed_and_written(
    request_of: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*request_of, "--cluster", "16xh100", "--check", "5"]) == 0
    err = capsys.readouterr().err
    assert "exact against bound: +" in err
    with Path("out/plan/levels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert [bool(r["exact_s"]) for r in rows] == [True] * 3 + [False] * 2
    assert [bool(r["shared_links_s"]) for r in rows] == [True] * 2 + [False] * 3
    assert main([*request_of, "--cluster", "16xh100", "--check", "0"]) == 2
    assert "--check: at least 1 plan" in capsys.readouterr().err
    assert main([*request_of, "--cluster", "16xh100", "--measure"]) == 2
    assert "--measure: runs plans here" in capsys.readouterr().err


def test_what_is_measured_decides(
    request_of: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run itself is that of `parplan execute`; here it is replaced."""
    ran: list[Plan] = []

    def execute(workload: Workload, processes: int, plans: list[Plan], **_: object) -> object:
        assert processes == 8
        ran.extend(plans)
        executed = [
            SimpleNamespace(plan=p, measured=SimpleNamespace(step_s=9.0 - i))
            for i, p in enumerate(plans)
        ]
        return SimpleNamespace(executed=executed)

    monkeypatch.setattr(backend_execute, "execute", execute)
    monkeypatch.setattr(plan_command, "check_arguments", lambda args, cluster: None)
    some = ("--cluster", "8xh100", "--measure", "--check", "16")
    Path("space.toml").write_text("tensor_parallel = 1\nzero_stage = [0, 2]\n")
    assert main([*request_of[:-1], "space.toml", *some]) == 0
    err = capsys.readouterr().err
    assert "measured against shared links: " in err
    with Path("out/plan/levels.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [float(r["measured_s"]) for r in rows if r["measured_s"].replace(".", "").isdigit()]
    assert len(measured) == len(ran) > 0
    assert measured == sorted(measured)
