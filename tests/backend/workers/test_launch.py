"""Worker processes: results, last words, and none left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parplan.backend.workers.launch import last_words, launch
from parplan.errors import ParplanError, RunFailedError
from tests.commands import parplan

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from parplan.backend.workers.worker import end_with

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
end_with(job["launcher"])
rank = int(os.environ["RANK"])
Path(job["pids"], str(os.getpid())).touch()
if job["do"] == "return":
    print(f"rank {rank}")
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(job["value"]))
elif job["do"] == "raise" and rank == 1:
    sys.exit("out of luck")
elif job["do"] == "kill" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
else:
    time.sleep(100)
"""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "their_worker.py").write_text(WORKER)
    pids = tmp_path / "pids"
    pids.mkdir()
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)

    def run(do: str, timeout_s: float = 200, **rest):
        job = {"do": do, "pids": str(pids), **rest}
        return launch(job, 2, timeout_s=timeout_s, module="their_worker")

    run.pids = pids
    return run


def all_gone(pids: Path, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(Path("/proc", pid.name).exists() for pid in pids.iterdir()):
            return True
        time.sleep(0.1)
    return False


def test_what_rank_0_returns_comes_back(start) -> None:
    assert start("return", value={"step_s": 0.5}) == {"step_s": 0.5}
    assert len(list(start.pids.iterdir())) == 2


def test_a_dying_worker_leaves_its_last_words(start) -> None:
    with pytest.raises(RunFailedError, match="worker 1 died with exit code 1: out of luck"):
        start("raise")
    assert all_gone(start.pids)


def test_warnings_of_torch_are_no_last_words(tmp_path: Path) -> None:
    (tmp_path / "torchrun.log").write_text("Root Cause\n rank : 1 (local_rank: 1)\n exitcode : 1\n")
    log = tmp_path / "run" / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("ValueError: mine\n[rank1]:[W1128 15:20:53.1 reducer.cpp:1529] Warning: some\n")
    assert last_words(tmp_path, 1) == "worker 1 died with exit code 1: ValueError: mine"


def test_a_killed_worker_is_named_with_its_signal(start) -> None:
    with pytest.raises(RunFailedError, match=r"worker 1 died with signal 9 \(SIGKILL\)"):
        start("kill")
    assert all_gone(start.pids)


@pytest.mark.long
def test_a_hanging_worker_is_stopped_in_time(start) -> None:
    with pytest.raises(RunFailedError, match="did not finish within 20 s and were stopped"):
        start("hang", timeout_s=20)
    assert len(list(start.pids.iterdir())) == 2
    assert all_gone(start.pids)


def test_no_worker_outlives_a_killed_launcher(start, tmp_path: Path) -> None:
    code = (
        "from parplan.backend.workers.launch import launch\n"
        f"launch({{'do': 'hang', 'pids': {str(start.pids)!r}}}, 2, timeout_s=200, "
        "module='their_worker')\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while len(list(start.pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    assert len(list(start.pids.iterdir())) == 2
    assert all_gone(start.pids)


def test_a_missing_torch_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "from parplan.experiments.cli import main\n"
        "sys.exit(main(['execute']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "parplan: error: executing plans needs torch: pip install 'parplan[torch]'\n"
    )


def test_no_process_at_all() -> None:
    with pytest.raises(ParplanError, match="processes: must be at least 1, got 0"):
        launch({}, 0, timeout_s=1)


def test_a_batch_that_does_not_divide(tmp_path: Path) -> None:
    done = parplan("execute", "--processes", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "16 does not divide over 3 processes" in done.stderr
