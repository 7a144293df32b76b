"""What was measured while a process was paused is measured again."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from parplan.backend.calibration import worker
from parplan.backend.execution import interleaved_runs
from parplan.backend.execution.trial_run import Sample, TrialRun
from tests.commands import start, workers


class Counted:
    """Pauses behind the given rounds, counted from 1 on."""

    def __init__(self, *after: int) -> None:
        self.looks, self.after, self.found = 0, after, 0

    def count(self) -> int:
        # Before and behind each round.
        self.looks += 1
        self.found += self.looks % 2 == 0 and self.looks // 2 in self.after
        return self.found

    def close(self) -> None:
        pass


def test_a_round_with_a_pause_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaved_runs, "Pauses", lambda: Counted(2, 3))
    done: list[int] = []
    kept: list[int] = []

    def step() -> None:
        done.append(len(done))
        kept.append(done[-1])

    said: list[int] = []
    interleaved_runs.take_turns([step], 4, said.append, spoil=kept.pop)
    assert kept == [0, 3, 4, 5]
    assert said == [1, 2, 3, 4]


def test_rounds_end_where_every_one_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaved_runs, "Pauses", lambda: Counted(*range(100)))
    done: list[int] = []
    interleaved_runs.take_turns([lambda: done.append(1)], 4, lambda number: None)
    assert len(done) == 8


def test_a_spoilt_step_is_in_no_time_but_its_loss_stays() -> None:
    trial = TrialRun.__new__(TrialRun)
    trial.samples, trial.spoilt = [], set()
    for number in range(5):
        trial.samples.append(Sample(0.0, float(number), loss=number, marks=[]))
        if number in (1, 3):
            trial.spoil()
    assert [own.end_s for (own,) in trial.steps(1)] == [2.0, 4.0]
    assert trial.losses == [0, 1, 2, 3, 4]


def test_a_sitting_measures_again_what_was_paused() -> None:
    said: list[str] = []
    results = iter("abc")
    sitting: Any = SimpleNamespace(pauses=Counted(1, 2), lost_s=0.0, _say=said.append)
    assert worker._Sitting.undisturbed(sitting, lambda: next(results)) == "c"
    assert said == ["a process was paused for a while: what was measured then is done again"] * 2
    assert sitting.lost_s > 0
    sitting.pauses = Counted(*range(100))
    tries = [worker._Sitting.undisturbed(sitting, lambda: 1)]
    assert tries == [1]


def stopped_once(process: subprocess.Popen[str], seconds: float) -> None:
    """Stop all workers at once for so long."""
    both = workers(of=process.pid)
    assert len(both) == 2
    for signum in (signal.SIGSTOP, signal.SIGCONT):
        for pid in both:
            os.kill(pid, signum)
        time.sleep(seconds if signum == signal.SIGSTOP else 0)


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    """What it says on stderr, as it comes."""
    said: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lambda: said.extend(process.stderr), daemon=True).start()
    return said


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end_s
        assert process.poll() is None
        time.sleep(0.1)


STOPPED_S = 40.0
"""Longer than a worker may be silent."""


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_real_run_whose_workers_are_stopped_for_a_while(
    tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    words = ("execute", "gpt-tiny", "--layers", "2", "--seq-len", "16", "--global-batch", "8")
    process = start(*words, "--processes", "2", "--repeats", "12", "-o", "out", cwd=tmp_path)
    running.append(process)
    said = lines_of(process)
    wait_for(lambda: any("step 5 of" in line for line in said), process)
    stopped_once(process, STOPPED_S)
    assert process.wait(timeout=300) == 0, said
    text = "".join(said)
    assert "all workers are stopped (by a signal); this run waits until they go on" in text
    assert "the steps of this round are measured again" in text
    table = json.loads((tmp_path / "out" / "execution.json").read_text())
    for executed in table["executed"]:
        assert len(executed["samples_s"]) == 12
        assert max(executed["samples_s"]) < STOPPED_S / 4


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_real_calibration_whose_workers_are_stopped_for_a_while(
    tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    words = ("calibrate", "--quick", "--budget-s", "10", "--processes", "2", "-o", "p.json")
    process = start(*words, cwd=tmp_path)
    running.append(process)
    said = lines_of(process)
    partial = tmp_path / "p.partial.jsonl"
    wait_for(lambda: partial.exists() and partial.read_bytes().count(b"\n") >= 2, process)
    stopped_once(process, STOPPED_S)
    assert process.wait(timeout=240) == 0, said
    assert "what was measured then is done again" in "".join(said)
    profile = json.loads((tmp_path / "p.json").read_text())
    times = [row["timing"]["seconds"] for row in profile["kernels"] + profile["collectives"]]
    assert times
    assert max(times) < STOPPED_S / 4
