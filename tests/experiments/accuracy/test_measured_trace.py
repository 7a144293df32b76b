"""Traces of torch.profiler beside a predicted timeline."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from parplan.errors import ParplanError
from parplan.experiments.accuracy.measured_trace import read_trace, with_measured
from parplan.experiments.cli import main
from parplan.sim.plan_file import plan_table
from tests.experiments.interop.interop_cases import CASES


def event(name: str, cat: str, ts: float, dur: float, **more: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "pid": 0, "tid": 7, **more}


GPU = {
    "distributedInfo": {"rank": 3, "world_size": 8},
    "traceEvents": [
        event("ProfilerStep#4", "user_annotation", 1000.0, 80.0, pid=99),
        event("ProfilerStep#4", "gpu_user_annotation", 1020.0, 100.0),
        event("launch", "cpu_op", 1010.0, 5.0, pid=99),
        event("gemm", "kernel", 1020.0, 40.0),
        event("ncclDevKernel_AllReduce", "kernel", 1050.0, 40.0, tid=9),
        event("gemm", "kernel", 1100.0, 20.0),
        # Of the next step.
        event("gemm", "kernel", 1130.0, 20.0),
        {"ph": "M", "name": "process_labels", "pid": 0, "args": {"labels": "GPU 0"}},
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": 7, "args": {"name": "stream 7"}},
    ],
}


def test_kernels_are_those_of_the_window_on_the_device(tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(GPU).encode()))
    found = read_trace(path)
    assert (found.rank, found.step, found.step_s) == (3, "ProfilerStep#4", pytest.approx(1e-4))
    assert found.compute_s == pytest.approx(60e-6)
    assert found.communication_s == pytest.approx(40e-6)
    assert found.exposed_s == pytest.approx(30e-6)
    assert [e["ts"] for e in found.events] == [0.0, 20.0, 10.0, 20.0, 50.0, 100.0]
    joined = with_measured({"traceEvents": [{"pid": 0}]}, 1, [found])["traceEvents"]
    assert {e["pid"] for e in joined} == {0, 1, 2}
    names = [e["args"]["name"] for e in joined if e.get("name") == "process_name"]
    assert names == ["measured: rank 3: 99", "measured: rank 3: GPU 0"]


def test_a_trace_of_torch_lies_beside_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    matrix = torch.ones(64, 64)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        schedule=torch.profiler.schedule(wait=0, warmup=1, active=2, repeat=1),
    ) as profiler:
        for _ in range(3):
            matrix = matrix @ matrix / 64
            profiler.step()
    profiler.export_chrome_trace("measured.json")
    plan, workload, cluster = CASES["experts"]
    Path("plan.json").write_text(json.dumps(plan_table(plan, workload, cluster)))
    assert main(["simulate", "plan.json", "--measured", "measured.json"]) == 0
    assert "measured rank 0, ProfilerStep#" in capsys.readouterr().out
    events = json.loads(Path("out/simulate/timeline.json").read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {"predicted: rank 0", "predicted: rank 1"} < names
    assert any(name.startswith("measured: rank 0") for name in names)
    products = [e for e in events if e["name"] == "aten::mm"]
    assert products
    assert all(e["pid"] > 1 and e["ts"] >= 0 for e in products)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a Chrome trace"),
        ("[]", "it has no traceEvents"),
        ('{"traceEvents": []}', "no step is marked"),
    ],
)
def test_what_is_no_trace_of_steps_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(ParplanError, match=message):
        read_trace(path)


def test_a_step_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(GPU))
    with pytest.raises(ParplanError, match="no ProfilerStep#9; there are ProfilerStep#4"):
        read_trace(path, 9)


def test_a_last_step_without_kernels_is_passed_over(tmp_path: Path) -> None:
    later = [
        event("ProfilerStep#5", "user_annotation", 1100.0, 40.0, pid=99),
        event("ProfilerStep#5", "gpu_user_annotation", 1200.0, 40.0),
        event("launch", "cpu_op", 1110.0, 5.0, pid=99),
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({**GPU, "traceEvents": [*GPU["traceEvents"], *later]}))
    assert read_trace(path).step == "ProfilerStep#4"
    with pytest.raises(ParplanError, match="no kernel begins in ProfilerStep#5"):
        read_trace(path, 5)


def test_a_trace_of_another_number_of_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    info = {"rank": 3, "world_size": 4096}
    Path("trace.json").write_text(json.dumps({**GPU, "distributedInfo": info}))
    plan, workload, cluster = CASES["experts"]
    Path("plan.json").write_text(json.dumps(plan_table(plan, workload, cluster)))
    assert main(["simulate", "plan.json", "--measured", "trace.json"]) == 2
    err = capsys.readouterr().err
    assert f"of a run of 4096 processes; the plan has {plan.num_devices} devices" in err
