"""Pauses of the machine and of all workers are no silence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parplan.backend.workers.awake_clock import AwakeClock, Pauses
from parplan.backend.workers.supervise import Supervisor
from parplan.errors import RunFailedError


def keep_looking(supervisor: Supervisor) -> None:
    for _ in range(20):
        time.sleep(0.1)
        supervisor()


def test_a_pause_counts_as_one_look() -> None:
    times = iter([100.0, 101.0, 141.0, 141.5, 140.0, 180.0, 180.25])
    clock = AwakeClock(2.0, lambda: next(times))
    assert clock.now_s() == 1.0
    assert clock.now_s() == 3.0  # 40 s in which nothing ran
    assert clock.now_s() == 3.5
    assert clock.now_s() == 3.5  # A clock that goes back
    clock.skip()
    assert clock.now_s() == 3.75


def test_workers_that_are_all_stopped_are_waited_for(tmp_path: Path) -> None:
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    said: list[str] = []
    try:
        for rank, process in enumerate(sleepers):
            (tmp_path / f"alive.{rank}").write_text(str(process.pid))
            os.kill(process.pid, signal.SIGSTOP)
        supervisor = Supervisor(tmp_path, said.append, silent_s=0.2, stall_s=0.2)
        for _ in range(3):
            time.sleep(0.15)
            supervisor()
        assert said == ["all workers are stopped (by a signal); this run waits until they go on"]
        os.kill(sleepers[0].pid, signal.SIGCONT)
        with pytest.raises(
            RunFailedError, match=r"worker 0 .*, worker 1 \(stopped\) did not answer"
        ):
            keep_looking(supervisor)
    finally:
        for process in sleepers:
            process.kill()
            process.wait()


def test_a_worker_that_answers_is_not_silent_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    alive = tmp_path / "alive.0"
    alive.write_text(str(os.getpid()))
    supervisor = Supervisor(tmp_path, print, silent_s=0.3)
    for beat in range(8):
        os.utime(alive, (0, beat))  # Long ago: the clock was set back.
        supervisor()
        time.sleep(0.1)
    with pytest.raises(RunFailedError, match="worker 0"):
        keep_looking(supervisor)


def test_pauses_are_counted_from_a_length_on() -> None:
    times = iter([10.0, 10.2, 13.0, 13.1, 14.5, 60.0])
    pauses = Pauses(2.0, lambda: next(times))
    pauses.close()
    assert [pauses.count() for _ in range(5)] == [0, 1, 1, 1, 2]


def test_a_process_that_was_stopped_knows_it() -> None:
    program = (
        "import time\n"
        "from parplan.backend.workers.awake_clock import Pauses\n"
        "pauses = Pauses(0.9)\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 0.5\n"
        "while time.monotonic() < end: pass\n"
        "print(pauses.count())\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.2)
        os.kill(process.pid, signal.SIGCONT)
        assert int(process.stdout.read()) >= 1
