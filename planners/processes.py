"""Work spread over processes: results in order, and an interrupt ends all of them quietly."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def mapping(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, or the `map` of so many worker processes (at most one for each core).

    Leaving by an exception drops what has not begun.
    """
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


@contextmanager
def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, at_a_time: int = 1
) -> Iterator[Iterator[Result]]:
    """The results of `function` for `items`, one after the other, on at most `workers` processes.

    `function` and its items have to be picklable when there are several; `at_a_time` items are
    handed over together. Leaving by an exception drops what has not begun.
    """
    with mapping(min(workers, len(items))) as run:
        yield run(function, items, chunksize=at_a_time)
