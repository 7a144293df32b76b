"""`parplan execute`: real plans on two real processes, compared with their predictions."""

import csv
import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest

from parplan.backend.execute import execute
from parplan.hardware.errors import ParplanError
from parplan.sim.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.workload import Workload
from tests.commands import all_gone, parplan, start, wait_for, workers

pytestmark = pytest.mark.timeout(600)

SMALL = ("execute", "gpt-tiny", "--layers", "2", "--seq-len", "16", "--global-batch", "8")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("execute")
    words = (*SMALL, "--processes", "2", "--repeats", "3", "-o", "results")
    done = parplan(*words, cwd=folder, timeout_s=500)
    assert done.returncode == 0, done.stderr
    return folder / "results", done.stdout


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "executed.csv").open() as file:
        return list(csv.DictReader(file))


def test_data_parallel_and_both_pipelines_ran_with_and_without_recomputation(
    executed: tuple[Path, str],
) -> None:
    ran = {(r["num_stages"], r["schedule"], r["recomputation"]) for r in rows(executed[0])}
    for recomputation in ("none", "full"):
        assert {("2", s, recomputation) for s in ("gpipe", "1f1b")} <= ran
        assert ("1", "1f1b", recomputation) in ran


def test_every_plan_trains_as_one_process_does(executed: tuple[Path, str]) -> None:
    # fp32 sums in another order: a few units in the seventh digit.
    assert all(float(row["loss_difference"]) < 1e-5 for row in rows(executed[0]))


def test_the_table_shows_what_the_file_holds(executed: tuple[Path, str]) -> None:
    folder, out = executed
    for row in rows(folder):
        assert any(line.startswith(row["name"] + " ") for line in out.splitlines())
        predicted, measured = float(row["predicted_s"]), float(row["measured_s"])
        assert float(row["error"]) == pytest.approx(predicted / measured - 1)
        assert measured in [pytest.approx(float(s), abs=1e-6) for s in row["samples_s"].split()]
        assert len(row["samples_s"].split()) == 3
    assert "mean absolute error" in out


def test_predicted_and_measured_are_in_one_timeline_with_the_same_actions(
    executed: tuple[Path, str],
) -> None:
    events = json.loads((executed[0] / "timeline.json").read_text())["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    actions: dict[str, set[str]] = {}
    for event in events:
        if event["ph"] == "X" and event["cat"] == "compute":
            actions.setdefault(processes[event["pid"]], set()).add(event["name"])
    predicted = {name: a for name, a in actions.items() if name.startswith("predicted")}
    assert len(predicted) >= 6
    for name, found in predicted.items():
        assert actions[name.replace("predicted", "measured", 1)] == found


def test_the_chosen_plan_can_be_read_and_run_again(executed: tuple[Path, str]) -> None:
    plan, workload, _ = read_plan(executed[0] / "plan.json")
    assert plan.num_devices == 2
    assert workload.model.num_layers == 2
    words = ("execute", "--plan", executed[0] / "plan.json", "--repeats", "1")
    done = parplan(*words, cwd=executed[0].parent, timeout_s=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tp2 sp m2", {"tensor_parallel": 2, "sequence_parallel": True, "batch_per_device": 4}),
        ("dp2 zero1 m2", {"data_parallel": 2, "batch_per_device": 2, **zero_fields(1)}),
    ],
)
def test_plans_without_measured_costs_run_without_a_prediction(tmp_path, name, fields) -> None:
    model = dataclasses.replace(model_preset("gpt-tiny"), num_layers=2)
    workload = Workload(model=model, seq_len=16, global_batch=8, precision="fp32")
    plan = Plan(num_micro_batches=2, **fields)
    (tmp_path / "plan.json").write_text(json.dumps(plan_table(plan, workload, "2 processes")))
    words = ("execute", "--plan", "plan.json", "--repeats", "1", "-o", "results")
    done = parplan(*words, cwd=tmp_path, timeout_s=500)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^{name} +- +\d", done.stdout, flags=re.MULTILINE)
    assert f"{name}: measured only; " in done.stdout
    row = next(row for row in rows(tmp_path / "results") if row["name"] == name)
    assert row["predicted_s"] == row["error"] == ""
    assert float(row["loss_difference"]) < 1e-5


def test_a_plan_that_cannot_be_executed_is_refused_before_the_start() -> None:
    workload = Workload(
        model=model_preset("gpt-tiny"), seq_len=16, global_batch=8, precision="fp32"
    )
    with pytest.raises(ParplanError, match="context_parallel 2 cannot be executed yet"):
        execute(workload, 2, [Plan(context_parallel=2, num_micro_batches=8)])
    with pytest.raises(ParplanError, match="= 1 devices, but the cluster has 2"):
        execute(workload, 2, [Plan(num_micro_batches=8)])
    with pytest.raises(ParplanError, match="tf32: cannot be executed yet"):
        execute(dataclasses.replace(workload, tf32=True), 2, [Plan(data_parallel=2)])


def test_a_model_that_this_machine_cannot_hold_is_refused_before_the_start() -> None:
    workload = Workload(model=model_preset("llama3-405b"), seq_len=16, global_batch=2)
    with pytest.raises(ParplanError, match=r"llama3-405b: \d+ copies .* take fewer layers"):
        execute(workload, 2, [Plan(data_parallel=2)])


@pytest.mark.parametrize("how", ["a worker dies", "the user interrupts"])
def test_an_early_end_leaves_one_line_and_no_process(tmp_path: Path, how: str) -> None:
    command = start(*SMALL, "--repeats", "100000", cwd=tmp_path)
    try:
        wait_for(lambda: len(workers(command.pid)) == 2, within_s=120)
        mine = workers(command.pid)
        if how == "a worker dies":
            os.kill(mine[0], signal.SIGKILL)
        else:
            command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=120)
    finally:
        command.kill()  # Its workers end when it is gone.
    lines = [line for line in err.splitlines() if "calibrating" not in line and "step" not in line]
    if how == "a worker dies":
        assert command.returncode == 1
        assert len(lines) == 1
        assert "died with signal 9 (SIGKILL)" in lines[0]
    else:
        assert command.returncode == 130
        assert lines == ["parplan: interrupted"]
    wait_for(lambda: all_gone(mine), within_s=60)
    assert not (tmp_path / "out" / "execute" / "executed.csv").exists()
