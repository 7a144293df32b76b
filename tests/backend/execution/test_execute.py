"""`parplan execute`: real plans on two real processes, compared with their predictions."""

import csv
import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest

from parplan.backend.calibration import this_machine
from parplan.backend.execution.execute import execute
from parplan.backend.execution.result import Execution
from parplan.errors import ParplanError
from parplan.experiments.accuracy.comparison import attribution
from parplan.experiments.accuracy.comparison_tables import short_name
from parplan.experiments.benchmarks.execution import plans
from parplan.experiments.commands.run import execute as execute_command
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.software.framework import NO_OVERHEAD
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


@pytest.mark.long
def test_the_chosen_plan_can_be_read_and_run_again(executed: tuple[Path, str]) -> None:
    plan, workload, _ = read_plan(executed[0] / "plan.json")
    assert plan.num_devices == 2
    assert workload.model.num_layers == 2
    words = ("execute", "--plan", executed[0] / "plan.json", "--repeats", "1")
    done = parplan(*words, cwd=executed[0].parent, timeout_s=500)
    assert done.returncode == 0, done.stderr


KINDS = {
    "tp2 sp m2": Plan(
        tensor_parallel=2, sequence_parallel=True, num_micro_batches=2, batch_per_device=4
    ),
    "dp2 zero1 m2": Plan(
        data_parallel=2, num_micro_batches=2, batch_per_device=2, distribute_param=True
    ),
    "dp2 zero3 m1": Plan(
        data_parallel=2,
        batch_per_device=4,
        distribute_param=True,
        distribute_gradient=True,
        distribute_low_prec_param=True,
    ),
    "pp2 zb-v v2 m4": Plan(
        num_stages=2, virtual_stages=2, num_micro_batches=4, batch_per_device=2, schedule="zb-v"
    ),
    "pp2 1f1b m4 + full": Plan(
        num_stages=2,
        num_micro_batches=4,
        batch_per_device=2,
        recomputation="full",
        recomputed_layers=1,
    ),
}


@pytest.fixture(scope="module")
def kinds() -> Execution:
    model = dataclasses.replace(model_preset("gpt-tiny"), num_layers=6)
    workload = Workload(
        model=model, seq_len=16, global_batch=8, precision="fp32", framework=NO_OVERHEAD
    )
    return execute(workload, 2, list(KINDS.values()), repeats=3, choose=False)


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_plan_is_predicted_from_proxies_and_trains_alike(
    kinds: Execution, name: str
) -> None:
    (found,) = (e for e in kinds.executed if e.plan == KINDS[name])
    assert short_name(found.plan) == name
    assert found.loss_difference < 1e-5
    # The prediction has the actions of the plan, whatever the machine's load.
    actions = [
        {e.name for e in run.events if e.stream == "compute"}
        for run in (found.predicted, found.measured)
    ]
    assert actions[0] == actions[1]
    assert found.predicted.step_s > 0
    # Memory does not depend on load.
    assert abs(found.memory_error) < 0.1
    own = sum(attribution(found).values())
    assert own == pytest.approx(found.error)


@pytest.mark.long
def test_what_is_waited_for_is_told_by_stream(kinds: Execution) -> None:
    waits = {short_name(e.plan): e for e in kinds.executed}
    tensor, sharded = waits["tp2 sp m2"], waits["dp2 zero3 m1"]
    for exposed in (tensor.predicted_exposed_s, tensor.measured_exposed_s):
        assert exposed["tensor-parallel"] > 0 == exposed["data-parallel"]
    for exposed in (sharded.predicted_exposed_s, sharded.measured_exposed_s):
        assert exposed["data-parallel"] > 0 == exposed["tensor-parallel"]
    streams = {e.stream for e in waits["pp2 zb-v v2 m4"].profiled.events}
    assert streams >= {"compute", "send"}


@pytest.mark.long
def test_the_results_can_be_compared_in_detail(kinds: Execution, tmp_path: Path) -> None:
    (tmp_path / "execution.json").write_text(json.dumps(kinds.to_json()))
    done = parplan("compare", tmp_path, "-o", "compared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in KINDS:
        assert len(re.findall(rf"^{re.escape(name)} ", done.stdout, flags=re.MULTILINE)) == 2
    assert "Kendall's tau" in done.stdout
    with (tmp_path / "compared" / "compare.csv").open() as file:
        for row in csv.DictReader(file):
            parts = [float(row[key]) for key in row if key.startswith("error from ")]
            assert sum(parts) == pytest.approx(float(row["error"]))
    trace = json.loads((tmp_path / "compared" / "timeline.json").read_text())["traceEvents"]
    shown = {e["args"]["name"] for e in trace if e["name"] == "process_name"}
    who = ("predicted", "measured", "profiled")
    assert {f"{w} pp2 zb-v v2 m4: rank 1" for w in who} <= shown
    none = parplan("compare", tmp_path, "--plan", "zb-h1", cwd=tmp_path)
    assert none.returncode == 2
    assert "--plan: 'zb-h1' is in none of tp2 sp m2, " in none.stderr
    absent = parplan("compare", "nowhere", cwd=tmp_path)
    assert absent.stderr == (
        "parplan: error: nowhere: not there; parplan execute -o nowhere makes it\n"
    )


@pytest.mark.long
def test_the_benchmark_runs_small_beside_loops_written_by_hand(tmp_path: Path) -> None:
    words = ("benchmark", "--execution", "--small", "--repeats", "1", "-o", "results")
    done = parplan(*words, cwd=tmp_path, timeout_s=500)
    assert done.returncode == 0, done.stderr
    found = Execution.from_json(json.loads((tmp_path / "results" / "execution.json").read_text()))
    assert [e.plan for e in found.executed] == plans(small=True)
    assert [written.name for written in found.hand_written] == ["DistributedDataParallel"]
    assert "backend over DistributedDataParallel by hand (dp2 m1): " in done.stdout
    assert all(e.loss_difference < 1e-5 for e in found.executed)


def test_a_plan_that_cannot_be_executed_is_refused_before_the_start() -> None:
    workload = Workload(
        model=model_preset("gpt-tiny"),
        seq_len=16,
        global_batch=8,
        precision="fp32",
        framework=NO_OVERHEAD,
    )
    with pytest.raises(ParplanError, match="offload_optimizer cannot be executed yet"):
        execute(workload, 2, [Plan(data_parallel=2, offload_optimizer=True, num_micro_batches=4)])
    with pytest.raises(ParplanError, match="= 1 devices, but the cluster has 2"):
        execute(workload, 2, [Plan(num_micro_batches=8)])
    with pytest.raises(ParplanError, match="tf32 cannot be executed yet"):
        execute(dataclasses.replace(workload, tf32=True), 2, [Plan(data_parallel=2)])


def test_a_model_that_this_machine_cannot_hold_is_refused_before_the_start() -> None:
    workload = Workload(
        model=model_preset("llama3-405b"), seq_len=16, global_batch=2, framework=NO_OVERHEAD
    )
    with pytest.raises(ParplanError, match=r"llama3-405b: \d+ copies .* take fewer layers"):
        execute(workload, 2, [Plan(data_parallel=2)])


@pytest.mark.parametrize(
    ("asked", "gpus", "text"),
    [
        (None, 0, "--device cuda: torch sees no GPU on this machine; leave --device out"),
        (2, 0, "--device cuda: torch sees no GPU on this machine; leave --device out"),
        (2, 1, "--processes 2: with --device cuda each needs a GPU of its own, and .* has 1"),
    ],
)
def test_gpus_that_are_not_there(monkeypatch, asked, gpus, text) -> None:
    monkeypatch.setattr(this_machine, "num_gpus", lambda: gpus)
    with pytest.raises(ParplanError, match=text):
        execute_command._processes("cuda", asked, 1)


def test_one_gpu_is_one_process(monkeypatch) -> None:
    monkeypatch.setattr(this_machine, "num_gpus", lambda: 1)
    assert execute_command._processes("cuda", None, 1) == 1


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
