"""Workers that are killed, stopped, stuck or slow: noticed in time, none left, nothing lost."""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from parplan.backend.workers.launch import launch
from parplan.backend.workers.supervise import CutOffError, slow_ranks
from parplan.errors import RunFailedError
from tests.commands import all_gone, start, wait_for, workers

pytestmark = pytest.mark.timeout(200)

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from parplan.backend.workers.heartbeat import begin_beating, keep_step
from parplan.backend.workers.worker import end_with

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
end_with(job["launcher"])
begin_beating()
rank = int(os.environ["RANK"])
Path(job["pids"], str(os.getpid())).touch()
keep_step({"num_stages": 1}, 0, 0.5, [("0F0", 0.0, 0.25), ("0B0", 0.25, 0.5)])
if rank == 1 and job["do"] == "stop":
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("do", "limits", "message"),
    [
        (
            "stop",
            {"silent_s": 6.0, "stall_s": 120.0},
            r"^worker 1 \(stopped\) did not answer for 6 s; all workers were ended$",
        ),
        pytest.param(
            "stall",
            {"silent_s": 120.0, "stall_s": 15.0},
            r"^no worker got further within 15 s; all workers were ended \(a longer step",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_worker_that_hangs_is_noticed_in_time(
    do: str,
    limits: dict[str, float],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "their_worker.py").write_text(WORKER)
    (tmp_path / "pids").mkdir()
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)
    job = {"do": do, "pids": str(tmp_path / "pids")}
    with pytest.raises(CutOffError, match=message) as found:
        launch(job, 2, timeout_s=180, module="their_worker", **limits)
    row = {"plan": {"num_stages": 1}, "stage": 0, "seconds": 0.5, "forward_s": 0.25}
    assert found.value.steps == {0: [row], 1: [row]}
    pids = [int(pid.name) for pid in (tmp_path / "pids").iterdir()]
    assert len(pids) == 2
    assert all_gone(pids)


@pytest.mark.long
def test_a_real_run_with_a_slow_and_then_killed_worker_keeps_its_steps(tmp_path: Path) -> None:
    words = ("execute", "gpt-tiny", "--layers", "2", "--seq-len", "16", "--global-batch", "8")
    process = start(*words, "--processes", "2", "--repeats", "3000", "-o", "out", cwd=tmp_path)
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reader.start()
    try:
        wait_for(lambda: any("step 5 of" in line for line in said), within_s=90)
        both = workers(of=process.pid)
        assert len(both) == 2
        slow = both[1]
        variables = Path(f"/proc/{slow}/environ").read_text().split("\0")
        (rank,) = (v.removeprefix("RANK=") for v in variables if v.startswith("RANK="))
        warning = f"parplan: warning: worker {rank} computes "
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s and not any(warning in line for line in said):
            os.kill(slow, signal.SIGSTOP)
            time.sleep(0.04)
            os.kill(slow, signal.SIGCONT)
            time.sleep(0.01)
        os.kill(slow, signal.SIGKILL)
        process.wait(timeout=60)
        reader.join(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, said
    assert all_gone(both)
    text = "".join(said)
    assert "Traceback" not in text
    warned = re.search(rf"{warning}([\d.]+) times as long as", text)
    assert warned is not None, text
    assert float(warned[1]) >= 1.5
    assert f"parplan: failed: worker {rank} died with signal 9 (SIGKILL)" in text
    kept = json.loads((tmp_path / "out" / "partial.json").read_text())
    assert kept["partial"] is True
    assert kept["why"] in text
    assert min(len(steps) for steps in kept["steps_of_workers"].values()) >= 20
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_slow_ranks_by_others_and_by_themselves() -> None:
    def rows(plan: dict[str, int], stage: int, *seconds: float) -> list[dict[str, object]]:
        return [
            {"plan": plan, "stage": stage, "seconds": 9.0, "forward_s": s} for s in (50, *seconds)
        ]

    replicas, pipeline = {"data_parallel": 3}, {"num_stages": 2}
    even = {rank: rows(replicas, 0, 1.0, 1.1, 0.9) for rank in range(3)}
    assert slow_ranks(even) == []
    one = even | {2: rows(replicas, 0, 2.0, 2.2, 1.8)}
    assert slow_ranks(one) == [(2, 2.0, "worker 0")]
    assert slow_ranks({0: rows(pipeline, 0, 1, 1, 1), 1: rows(pipeline, 1, 5, 5, 5)}) == []
    later = {0: rows(pipeline, 0, 1, 1, 1, 1, 1, 1), 1: rows(pipeline, 1, 1, 1, 1, 3, 3, 3)}
    assert slow_ranks(later) == [(1, 3.0, "it did before")]
    # Too few steps, and forwards that wait for others.
    assert slow_ranks({rank: steps[:3] for rank, steps in one.items()}) == []
    sharded = {"zero_stage": 3}
    assert slow_ranks({0: rows(sharded, 0, 1, 1, 1), 1: rows(sharded, 0, 3, 3, 3)}) == []


def test_a_failure_before_any_step_is_no_partial_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_worker.py").write_text("import sys; sys.exit('out of luck')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunFailedError, match="out of luck") as found:
        launch({}, 1, timeout_s=100, module="their_worker")
    assert not isinstance(found.value, CutOffError)
