"""Parallel sweeps over many cases with a journal.

While a sweep goes on its journal has the cases in the order in which they came; in the end it has
them in the order of the sweep, so that neither the number of workers nor an interrupt leaves a
trace in it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from typing import Any

from parplan.experiments.output.journal import Row, RowJournal
from parplan.planners.search.workers import WorkerPool

AT_ONCE = 8
"""Cases that are handed over together at most: they share what they have in common."""

Case = dict[str, Any]
"""What a case is of, by which the journal knows it."""

Compute = Callable[[Sequence[Case]], Iterator[Row]]
"""The rows of cases, one after the other."""


def swept(
    journal: RowJournal[Any],
    groups: Sequence[Sequence[Case]],
    compute: Compute,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    at_once: int = AT_ONCE,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """The rows of all cases: those that are in the journal, and new ones from `compute`.

    `groups`: cases that share much, which are computed together where that leaves enough to
    spread. `workers`, `executor`: as `parplan.planners.search.workers.WorkerPool` has them.
    `progress`: is told how many cases are done. Whatever ends it, the journal has what
    was computed.
    """
    cases = [case for group in groups for case in group]
    left = [[case for case in group if journal.find(case) is None] for group in groups]
    pieces = [group[i : i + at_once] for group in left for i in range(0, len(group), at_once)]
    progress(sum(journal.find(case) is not None for case in cases))

    def keep(case: Case, row: Row) -> None:
        journal.add(case, row)
        progress(len(journal.rows))

    with WorkerPool(workers, executor) as spread:
        alone = executor is None and len(pieces) == 1
        while pieces and (alone or not spread.is_remote):
            # One by one, so that an end by force costs no more than one.
            piece = pieces.pop(0)
            with spread.here():
                for case, row in zip(piece, compute(piece), strict=True):
                    keep(case, row)
        with closing(spread.as_they_come(partial(_rows, compute), pieces)) as results:
            for number, rows in results:
                for case, row in zip(pieces[number], rows, strict=True):
                    keep(case, row)
    journal.put_in_order(cases)
    return [journal.row_of(case) for case in cases]


def _rows(compute: Compute, cases: Sequence[Case]) -> list[Row]:
    return list(compute(cases))
