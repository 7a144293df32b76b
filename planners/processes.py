"""Work spread over processes: results in order, and an interrupt ends all of them quietly."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def mapping(
    workers: int, executor: Executor | None = None
) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, or the `map` of so many worker processes (at most one for each core).

    `executor`: one of the caller's instead, of processes or of machines, that stays open. Leaving
    by an exception drops what has not begun.
    """
    if executor is not None:
        yield partial(_map_on, executor)
        return
    workers = min(workers, os.cpu_count() or 1)
    if workers <= 1:
        yield lambda function, items, chunksize=1: map(function, items)
        return
    with ProcessPoolExecutor(
        workers,
        # Spawned workers inherit neither locks nor threads of this process.
        mp_context=multiprocessing.get_context("spawn"),
        # An interrupt ends this process, which then ends its workers.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _map_on(
    executor: Executor, function: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1
) -> Iterator[Any]:
    """The results in order. Not every executor's own `map` drops what has not begun."""
    waiting = list(items)
    parts = [waiting[i : i + chunksize] for i in range(0, len(waiting), chunksize)]
    futures = [executor.submit(_all_of, function, part) for part in parts]
    try:
        for future in futures:
            yield from future.result()
    finally:
        for future in futures:
            future.cancel()


def _all_of(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


@contextmanager
def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    at_a_time: int = 1,
    executor: Executor | None = None,
) -> Iterator[Iterator[Result]]:
    """The results of `function` for `items`, one after the other, on at most `workers` processes.

    `function` and its items have to be picklable when there are several; `at_a_time` items are
    handed over together. `executor`: as in `mapping`. Leaving by an exception drops what has not
    begun.
    """
    with mapping(min(workers, len(items)), executor) as run:
        yield run(function, items, chunksize=at_a_time)
