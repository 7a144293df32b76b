"""Parallel work over processes or machines, with clean interruption."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from parplan.errors import ParplanError, RunFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")

HERE_S = 2.0
"""So long work is done in this process: about what it takes to start others."""

FOR_EACH = 4
"""Pieces of work that are handed over at a time, for each process."""

ON_EXECUTOR = 1024
"""The same for an executor of the caller's, which may have many machines."""


class WorkerPool:
    """Processes that share the work.

    This one works for the first `here_s` (`HERE_S`) seconds, then at most `workers` processes (and
    one for each core); or all work on `executor`.

    `executor`: one of the caller's, of processes or of machines, that stays open. What is handed
    over has to be picklable. Leaving by an exception drops what has not begun, and ends the
    processes. A worker that fails by something else than a mistake in what it was given raises
    `RunFailedError`.
    """

    def __init__(
        self, workers: int, executor: Executor | None = None, here_s: float | None = None
    ) -> None:
        self._given = executor
        self._workers = min(workers, os.cpu_count() or 1)
        self._here_s = HERE_S if here_s is None else here_s
        self._own: ProcessPoolExecutor | None = None
        self._before: set[int | None] = set()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool) -> None:
        """End the processes; `at_once`: without waiting for what they are doing."""
        if self._own is None:
            return
        own = [p for p in multiprocessing.active_children() if p.pid not in self._before]
        self._own.shutdown(wait=not at_once, cancel_futures=True)
        if at_once:
            for process in own:
                process.terminate()
            for process in own:
                process.join()
        self._own = None

    @property
    def is_remote(self) -> bool:
        """Whether the next piece of work is done by other processes."""
        return self._given is not None or (self._workers > 1 and self._here_s <= 0)

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[Result, None, None]:
        """The results of `function` in the order of the items, of which few are held at a time."""
        left = iter(items)
        yield from self._here(function, left)
        waiting: deque[Future[Result]] = deque()
        try:
            for item in left:
                waiting.append(self._submit(function, item))
                if len(waiting) >= self._at_a_time:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def as_they_come(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[tuple[int, Result], None, None]:
        """The number of each item and the result of `function`, in the order of their ends."""
        left = iter(items)
        done = 0
        for result in self._here(function, left):
            yield done, result
            done += 1
        waiting: dict[Future[Result], int] = {}
        numbered = enumerate(left, start=done)
        try:
            while True:
                for number, item in islice(numbered, self._at_a_time - len(waiting)):
                    waiting[self._submit(function, item)] = number
                if not waiting:
                    return
                ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in sorted(ended, key=waiting.__getitem__):
                    yield waiting.pop(future), _result(future)
        finally:
            for future in waiting:
                future.cancel()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Around work that is done in this process."""
        begin = time.monotonic()
        yield
        self._here_s -= time.monotonic() - begin

    def _here(self, function: Callable[[Item], Result], left: Iterator[Item]) -> Iterator[Result]:
        """Do the first pieces of work in this process."""
        while not self.is_remote:
            some = list(islice(left, 1))
            if not some:
                return
            with self.here():
                result = function(some[0])
            yield result

    @property
    def _at_a_time(self) -> int:
        return ON_EXECUTOR if self._given is not None else FOR_EACH * self._workers

    def _submit(self, function: Callable[[Item], Result], item: Item) -> "Future[Result]":
        try:
            with _own_modules():
                return self._executor().submit(function, item)
        except Exception as error:
            raise _failed(error) from error

    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._before = {process.pid for process in multiprocessing.active_children()}
            self._own = ProcessPoolExecutor(
                self._workers,
                # Spawned workers inherit neither locks nor threads of this process.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
            )
        return self._own


@contextmanager
def _own_modules() -> Iterator[None]:
    """Processes that are started meanwhile import no modules of the current folder as their own."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _begin_worker() -> None:
    """Leave interrupts to the process that started this one.

    It ends its workers then; where it is killed, they end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _result(future: "Future[Result]") -> Result:
    """Return the result of a worker, or raise its input error as it was."""
    try:
        return future.result()
    except (ParplanError, AssertionError, ValueError):
        raise
    except Exception as error:
        raise _failed(error) from error


def _failed(error: Exception) -> RunFailedError:
    if isinstance(error, BrokenProcessPool):
        return RunFailedError(
            "a worker process was killed, perhaps for want of memory; what was done before is "
            "kept; --workers 1 works in this process alone"
        )
    return RunFailedError(f"a worker failed: {type(error).__name__}: {error}")


@contextmanager
def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    at_a_time: int = 1,
    executor: Executor | None = None,
    here_s: float = 0.0,
) -> Iterator[Iterator[Result]]:
    """The results of `function` for `items`, one after the other, on at most `workers` processes.

    `at_a_time` items are handed over together; the rest is as `WorkerPool` has it.
    """
    parts = (items[i : i + at_a_time] for i in range(0, len(items), at_a_time))
    with WorkerPool(min(workers, len(items)), executor, here_s) as spread:
        if spread.is_remote:
            with closing(_flat(spread.in_order(partial(_all_of, function), parts))) as results:
                yield results
        else:
            yield map(function, items)


def _flat(parts: Generator[Sequence[Result], None, None]) -> Generator[Result, None, None]:
    with closing(parts):
        for part in parts:
            yield from part


def _all_of(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]
