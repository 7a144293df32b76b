"""Searches on executors of the caller's, and on a Dask cluster that loses a worker."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import distributed
import pytest

from parplan.errors import ParplanError
from parplan.experiments.arguments import dask as executors
from parplan.experiments.arguments.dask import requested_executor
from parplan.experiments.cli import main
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.report import Report
from parplan.planners.search.workers import in_order
from parplan.planners.spaces.make import full_candidates
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.commands import wait_for
from tests.planners.search.test_workers import LANDSCAPE, results

pytestmark = pytest.mark.timeout(120)

WORKLOAD = Workload(
    model=model_preset("llama2-7b"), seq_len=1024, global_batch=64, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("64xa100-80gb")


@cache
def found(executor: Executor | None = None) -> Report:
    plans = full_candidates(WORKLOAD, CLUSTER, Options())
    return exhaustive(WORKLOAD, CLUSTER, plans, executor=executor)


def test_any_executor_finds_the_same() -> None:
    with ThreadPoolExecutor(2) as threads:
        assert found(threads).trials == found().trials
        with in_order(abs, range(-5, 5), 2, at_a_time=3, executor=threads) as results:
            assert list(results) == [abs(n) for n in range(-5, 5)]


def test_leaving_early_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    left = threading.Event()

    def held(n: int) -> int:
        begun.append(n)
        assert n == 0 or left.wait(60)
        return n

    with ThreadPoolExecutor(1) as thread, in_order(held, range(100), 2, executor=thread) as results:
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        left.set()
    # The one thread was in the second of them; nothing after it has begun.
    assert begun in ([0], [0, 1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def where_and_twice(n: int) -> tuple[int, int]:
    time.sleep(0.05)
    return os.getpid(), 2 * n


@pytest.mark.long
def test_a_worker_that_is_killed_in_the_middle_costs_nothing(
    cluster: distributed.LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = cluster.scheduler_address
    with requested_executor(address) as executor:
        assert executor is not None
        with in_order(where_and_twice, range(60), 3, executor=executor) as twices:
            done = [next(twices) for _ in range(5)]
            os.kill(done[-1][0], signal.SIGKILL)
            done += twices
    assert [twice for _, twice in done] == [2 * n for n in range(60)]
    assert len({process for process, _ in done}) >= 3
    pids = [info["pid"] for info in _workers(address)]
    killer = threading.Timer(0.3, lambda: os.kill(pids[0], signal.SIGKILL))
    killer.start()
    with requested_executor(address) as executor:
        report = found(executor)
    killer.join()
    assert report.trials == found().trials
    words = ("plan", "llama2-7b", "--cluster", "8xh100", "--seq-len", "64", "--global-batch", "8")
    words = ("scale", "llama2-7b", "--seq-len", "2048", "--global-batch", "64",
             "--cluster", "h100", "--sizes", "8,16,32,64", "--what-if", "memory=2")  # fmt: skip
    (one,) = ran(words, ("--workers", "1"), into=tmp_path / "one")
    journal = tmp_path / "two" / "scale" / f"{len(words)}-0" / "out" / "points.jsonl"
    killed: list[int] = []
    killer = threading.Thread(
        target=kill_after_the_first, args=(journal, _workers(address), killed)
    )
    killer.start()
    (two,) = ran(words, ("--dask", address), into=tmp_path / "two")
    killer.join()
    assert len(killed) == 2
    assert results(one) == results(two)


def kill_after_the_first(journal: Path, pids: list[dict[str, int]], killed: list[int]) -> None:
    wait_for(lambda: journal.exists() and len(journal.read_bytes().splitlines()) > 1, 60)
    assert len(journal.read_bytes().splitlines()) < 15, "the sweep is over"
    for one in pids[:2]:
        os.kill(one["pid"], signal.SIGKILL)
        killed.append(one["pid"])


PLAN = ("plan", "llama2-7b", "--cluster", "8xh100", "--seq-len", "64", "--global-batch", "8")

EVOLUTION = ("--planner", "evolution", "--budget", "60")


def ran(words: tuple[str, ...], *ways: tuple[str, ...], into: Path) -> list[Path]:
    """The folders of a command that is run in several ways."""
    folders = []
    before = Path.cwd()
    for number, way in enumerate(ways):
        folder = into / words[0] / f"{len(words)}-{number}"
        folder.mkdir(parents=True)
        os.chdir(folder)
        try:
            assert main([*words, *way, "-o", "out"]) == 0
        finally:
            os.chdir(before)
        folders.append(folder / "out")
    return folders


@pytest.mark.parametrize(
    "words",
    [LANDSCAPE, (*PLAN, "--space", "full"), (*PLAN, "--space", "full", *EVOLUTION)],
    ids=["landscape", "plan", "planner"],
)
def test_a_dask_cluster_writes_the_same(
    words: tuple[str, ...], cluster: distributed.LocalCluster, tmp_path: Path
) -> None:
    folders = ran(words, (), ("--dask", cluster.scheduler_address), into=tmp_path)
    assert results(folders[0]) == results(folders[1])


def test_workers_with_another_parplan_are_refused(
    cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "version", lambda name: "0.0.1")
    other = pytest.raises(ParplanError, match=r"has parplan .*, this is 0\.0\.1")
    with other, requested_executor(cluster.scheduler_address):
        pass


def _workers(address: str) -> list[dict[str, int]]:
    with distributed.Client(address) as client:
        return [{"pid": pid} for pid in client.run(os.getpid).values()]


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 1)
    no_answer = pytest.raises(ParplanError, match="no scheduler answers")
    with no_answer, requested_executor("tcp://127.0.0.1:9"):
        pass
    with pytest.raises(ParplanError, match="--dask"), requested_executor("nonsense://x"):
        pass
