"""`parplan simulate`: a plan file, played again."""

import json
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.programs.instructions import write_csv
from parplan.sim.programs.with_messages import add_communication
from parplan.sim.schedules import make_schedule
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=32, framework=NO_OVERHEAD
)
PLAN = Plan(num_stages=4, num_micro_batches=8, data_parallel=4, recomputation="full")


@pytest.fixture(autouse=True)
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(json.dumps(plan_table(PLAN, WORKLOAD, "16xh100")))


def test_it_plays_what_was_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "plan.json"]) == 0
    run = predict(compile_plan(WORKLOAD, cluster_preset("16xh100"), PLAN))
    assert f"step {run.step_s:.4g} s" in capsys.readouterr().out
    written = {path.name for path in Path("out/simulate").iterdir()}
    assert written == {
        "critical_path.csv",
        "gantt.png",
        "manifest.json",
        "memory.csv",
        "memory.png",
        "schedule.csv",
        "sensitivity.csv",
        "timeline.json",
    }
    assert Path("out/simulate/schedule.csv").read_text() == write_csv(make_schedule("1f1b", 4, 8))


def test_a_schedule_of_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.csv").write_text(write_csv(make_schedule("gpipe", 4, 8)))
    assert main(["simulate", "plan.json", "--schedule", "mine.csv"]) == 0
    gpipe = Plan(**{**PLAN.to_json(), "schedule": "gpipe"})
    compiled = compile_plan(WORKLOAD, cluster_preset("16xh100"), gpipe)
    out = capsys.readouterr().out
    assert f"step {predict(compiled).step_s:.4g} s" in out
    assert str(compiled.memory[0]) in out


def test_a_plan_file_may_name_any_schedule_with_one_stage_per_rank(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = plan_table(PLAN, WORKLOAD, "16xh100")
    table["plan"]["schedule"] = "zb-h2"
    Path("plan.json").write_text(json.dumps(table))
    assert main(["simulate", "plan.json"]) == 0
    assert Path("out/simulate/schedule.csv").read_text() == write_csv(make_schedule("zb-h2", 4, 8))
    table["plan"]["schedule"] = "zb-v"
    Path("plan.json").write_text(json.dumps(table))
    assert main(["simulate", "plan.json"]) == 2
    assert "zb-v: virtual_stages 1; needs 2" in capsys.readouterr().err


def test_lists_with_communication_are_played_as_their_computations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    schedule = make_schedule("1f1b", 4, 8)
    Path("mine.csv").write_text(write_csv(add_communication(schedule, reduce_gradients=True)))
    assert main(["simulate", "plan.json", "--schedule", "mine.csv"]) == 0
    assert Path("out/simulate/schedule.csv").read_text() == write_csv(schedule)
    text = write_csv(add_communication(schedule)).replace("1RECV_F7,", "")
    Path("mine.csv").write_text(text)
    assert main(["simulate", "plan.json", "--schedule", "mine.csv"]) == 2
    assert "mine.csv: rank 1: 1RECV_F7 is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("0F0\n1F0\n2F0\n3F0\n", "mine.csv: 0B0 is missing (and 59 more problems)"),
        ("0F0\n", "mine.csv: 1 rows, but the plan has num_stages 4"),
        ("0F0x\n\n\n\n", "mine.csv: row 1, column 1: '0F0x' is not an action"),
    ],
)
def test_a_wrong_schedule_is_refused(
    capsys: pytest.CaptureFixture[str], csv: str, message: str
) -> None:
    Path("mine.csv").write_text(csv)
    assert main(["simulate", "plan.json", "--schedule", "mine.csv"]) == 2
    assert message in capsys.readouterr().err


def test_another_cluster_has_to_hold_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "plan.json", "--cluster", "8xh100"]) == 2
    assert "= 16 devices, but the cluster has 8" in capsys.readouterr().err
