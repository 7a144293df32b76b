"""Work spread over processes and executors: equal results, clear failures, nothing left behind."""

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from parplan.errors import ParplanError, RunFailedError
from parplan.experiments.cli import main
from parplan.experiments.output.journal import Row, RowJournal
from parplan.experiments.output.sweep import Case, swept
from parplan.planners.conformance import example_space
from parplan.planners.search import workers as processes
from parplan.planners.search.evaluator import Budget
from parplan.planners.search.run import BUILT_IN, ONE_BY_ONE, run_planner
from parplan.planners.search.workers import WorkerPool
from tests.commands import all_gone, start, wait_for

pytestmark = pytest.mark.timeout(120)

TINY = ("gpt-tiny", "--seq-len", "64", "--global-batch", "16")
LANDSCAPE = (*("landscape", *TINY, "--cluster", "8xh100"), "--x", "num_stages=1,2",
             "--y", "memory=0.0001,0.5,1")  # fmt: skip
SCALE = ("scale", *TINY, "--cluster", "h100", "--sizes", "1,2,4,8", "--what-if", "memory=2")


def row_as_it_is(key: Row, row: Row) -> Row:
    return row


class Shuffled(Executor):
    """Ends what it was given in an order of its own, in two threads."""

    def __init__(self) -> None:
        self.threads, self.rng, self.pids = ThreadPoolExecutor(4), Random(3), set[int]()

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Future[Any]:
        def later() -> Any:
            time.sleep(self.rng.random() * 0.05)
            return function(*args, **named)

        return self.threads.submit(later)


def twice(n: int) -> int:
    return 2 * n


def slow(n: int) -> int:
    time.sleep(3600 if n else 0)  # Only being killed ends it in time.
    return os.getpid()


def dies(n: int) -> int:
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def wrong(n: int) -> int:
    if n == 3:
        raise ParplanError("three is not allowed")
    return n


def test_results_come_in_any_order_and_each_once() -> None:
    with WorkerPool(1, Shuffled()) as spread:
        found = list(spread.as_they_come(twice, range(50)))
        assert list(spread.in_order(twice, range(50))) == [2 * n for n in range(50)]
    assert [n for n, _ in found] != list(range(50))
    assert sorted(found) == [(n, 2 * n) for n in range(50)]


def test_work_moves_to_processes_when_it_takes_long() -> None:
    with WorkerPool(2, here_s=0.0) as spread:
        assert spread.is_remote == ((os.cpu_count() or 1) > 1)
    with WorkerPool(1, here_s=0.0) as spread:
        assert list(spread.in_order(twice, range(3))) == [0, 2, 4]
        assert multiprocessing.active_children() == []


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has no other processes")
def test_a_killed_worker_is_one_line_and_none_is_left_behind() -> None:
    with WorkerPool(2, here_s=0.0) as spread:
        with pytest.raises(ParplanError, match="three is not allowed"):
            list(spread.in_order(wrong, range(6)))
        with pytest.raises(RunFailedError, match="a worker process was killed") as error:
            list(spread.as_they_come(dies, range(6)))
    assert "\n" not in str(error.value)
    pids: list[int | None] = []
    with pytest.raises(KeyboardInterrupt):
        leave_at_once(pids)
    assert len(pids) == 2
    assert all_gone([pid for pid in pids if pid is not None])


def leave_at_once(pids: list[int | None]) -> None:
    with WorkerPool(2, here_s=0.0) as spread:
        for _ in spread.as_they_come(slow, range(4)):
            pids += [child.pid for child in multiprocessing.active_children()]
            raise KeyboardInterrupt


def rows(cases: Any) -> Any:
    for case in cases:
        yield {"square": case["n"] ** 2, "third": case["n"] / 3}


def test_journals_are_alike_whatever_the_order_and_wherever_it_ended(tmp_path: Path) -> None:
    groups: list[list[Case]] = [[{"n": n} for n in range(i, 40, 4)] for i in range(4)]

    def journal(name: str, **where: Any) -> bytes:
        with RowJournal(tmp_path / name, {"of": "a test"}, row_as_it_is) as kept:
            found = swept(kept, groups, rows, **where)
        assert [row["square"] for row in found] == [c["n"] ** 2 for group in groups for c in group]
        return (tmp_path / name).read_bytes()

    whole = journal("one.jsonl")
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 41
    assert journal("shuffled.jsonl", executor=Shuffled(), at_once=1) == whole
    for name, most in (("begun.jsonl", 7), ("cut.jsonl", 23)):

        def stop(done: int, most: int = most) -> None:
            if done == most:
                raise KeyboardInterrupt

        with (
            RowJournal(tmp_path / name, {"of": "a test"}, row_as_it_is) as kept,
            pytest.raises(KeyboardInterrupt),
        ):
            swept(kept, groups, rows, executor=Shuffled(), at_once=1, progress=stop)
        assert len((tmp_path / name).read_bytes().splitlines()) == most + 1
        assert journal(name) == whole


def results(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


@pytest.mark.parametrize("words", [LANDSCAPE, SCALE], ids=["landscape", "scale"])
def test_commands_write_the_same_with_any_number_of_workers(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--workers", "1", "-o", "one"]) == 0
    monkeypatch.setattr(processes, "HERE_S", 0.0)
    assert main([*words, "--workers", "2", "-o", "two"]) == 0
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert multiprocessing.active_children() == []


def test_planners_find_the_same_elsewhere() -> None:
    space, budget = example_space(), Budget(evaluations=70)
    for name in sorted(set(BUILT_IN) - set(ONE_BY_ONE)):
        one = run_planner(name, space, budget=budget, seed=1)
        with ThreadPoolExecutor(2) as threads:
            two = run_planner(name, space, budget=budget, seed=1, executor=threads)
        assert one.trials == two.trials, name
        assert (one.num_asked, one.stopped, one.proven) == (two.num_asked, two.stopped, two.proven)


def test_planners_with_nothing_to_spread_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "gpt-tiny", "--cluster", "8xh100", "--seq-len", "64", "--global-batch", "16"]
    for name in ONE_BY_ONE:
        more = ["--space", "full", "--planner", name, "--dask", "tcp://127.0.0.1:9"]
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--dask: {name} asks for one plan after the other" in line
        assert "random, grid, evolution, beam, nsga2, bayesian" in line
    assert main([*LANDSCAPE, "--workers", "0"]) == 2
    assert "--workers: must be at least 1" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_however_a_sweep_ends_no_process_is_left(end: signal.Signals, tmp_path: Path) -> None:
    words = ("landscape", "gpt3-175b", "--cluster", "1024xa100-80gb", "--seq-len", "2048",
             "--global-batch", "1536", "--x", "num_stages=4,8,16,32", "--y",
             "memory=" + ",".join(f"{0.5 + i / 64:g}" for i in range(100)))  # fmt: skip
    process = start(*words, "--workers", "2", "-o", "out", cwd=tmp_path)
    wait_for(lambda: len(children(process.pid)) >= 3, 60)  # Two, and what Python tracks them by.
    own = children(process.pid)
    process.send_signal(end)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (130 if end == signal.SIGINT else -end)
    assert "Traceback" not in said
    wait_for(lambda: all_gone(own), 60)


def children(of: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == of:
                found.append(int(path.name))
        except (OSError, ValueError):
            continue
    return found
