"""The fast evaluator for links that several pairs of ranks share.

There the times decide in which order messages go, so that no order of the actions holds for every
candidate and each is simulated event by event (`parplan.sim.fast.fifo_loop`,
`parplan.sim.fast.fair_loop`), to the same picosecond as in the engine. A step over shared links
never takes less time than over links of their own: `parplan.sim.fast.fast` gives a lower bound.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.fast import fifo_loop
from parplan.sim.fast.as_run import Swept, run_of
from parplan.sim.fast.fair_loop import Actions, FairLoop
from parplan.sim.programs.arrays import Codes
from parplan.sim.programs.instructions import Program
from parplan.sim.run import Run
from parplan.sim.step.shared_links import SharedLinks
from parplan.sim.step.step_tables import SweepTables, sweep_tables
from parplan.sim.step.sweep import compiled_loops
from parplan.sim.step.tape import Tape, lower
from parplan.sim.ticks import Ints, StageTicks, stage_ticks

EVENTS_TO_LOAD = 1_000_000
"""Actions times candidates that take longer than numba takes to load."""


def contended_many_ps(
    tape: Tape,
    ticks: StageTicks,
    links: SharedLinks,
    *,
    durations_ps: Ints | None = None,
    blocking_sends: bool = False,
    post_validation: bool = False,
    compiled: bool | None = None,
) -> Ints:
    """The step time of each candidate, in picoseconds, shape [candidates].

    `compiled`: whether to use numba; None: where it is installed and pays. Links that are shared
    fairly are simulated without it. Raises `ParplanError` as `fast_many_ps` does.
    """
    work = len(tape) * ticks.num_candidates
    if compiled and compiled_loops(load=True) is None:
        raise ParplanError("compiled: numba is not installed (pip install 'parplan[fast]')")
    if compiled is None:
        compiled = compiled_loops(load=work >= EVENTS_TO_LOAD) is not None
    tables = sweep_tables(tape, ticks, durations_ps, 1, post_validation)
    return _Simulator(tape, tables, links, blocking_sends, compiled).ends()


def contended_run(
    schedule: Program,
    costs: Sequence[StageCosts],
    links: SharedLinks,
    *,
    durations_ps: Sequence[int] | None = None,
    blocking_sends: bool = False,
    post_validation: bool = False,
) -> Run:
    """The run of one candidate, equal to that of `simulate` with `links`."""
    tape, ticks = lower(schedule), stage_ticks([costs])
    own = None if durations_ps is None else np.array([durations_ps], dtype=np.int64)
    tables = sweep_tables(tape, ticks, own, 1, post_validation)
    swept, send_start = _Simulator(tape, tables, links, blocking_sends, False).run(0)
    return run_of(tape, ticks, tables, swept, np.asarray(send_start, dtype=np.int64))


class _Simulator:
    """A tape unrolled into the order of the lists, once for all candidates."""

    def __init__(
        self,
        tape: Tape,
        tables: SweepTables,
        links: SharedLinks,
        blocking: bool,
        compiled: bool,
    ) -> None:
        self.tape, self.tables, self.links, self.blocking = tape, tables, links, blocking
        self.loops: Any = None
        if compiled and links.sharing == "fifo":
            self.loops = compiled_loops(load=True)
        entries = tape.entries
        self.rank, self.stage, self.consumer = entries.rank, entries.stage, entries.consumer
        self.column, self.reduces = np.zeros_like(tape.place), np.zeros_like(tape.place)
        self.column[tape.place] = tables.column
        self.reduces[tape.place] = tables.reduces
        link = self._links()
        given = (entries.first, self.rank, entries.producer, self.consumer, link)
        costs = (self.column, self.stage, self.reduces)
        self.given = tuple(map(self._given, given))
        self.by_place = tuple(map(self._given, costs))
        num_links = 1 + max(int(link.max(initial=-1)), links.num_links - 1)
        n, ranks = len(tape), tape.num_ranks
        self.sizes = (*[ranks] * 3, *[n] * 4, *[num_links] * 3)

    def _links(self) -> Codes:
        """Links by place: the shared links keep their numbers, private ones follow."""
        ranks, to_rank = self.tape.num_ranks, self.rank[self.consumer]
        crosses = (self.consumer >= 0) & (to_rank != self.rank)
        code = self.rank * ranks + to_rank
        number = np.full(ranks * ranks, -1, dtype=np.int32)
        own = self.links.num_links
        for pair in np.flatnonzero(np.bincount(code[crosses])).tolist():
            shared = self.links.links.get(divmod(pair, ranks))
            number[pair] = shared[0] if shared else own
            own += not shared
        return np.where(crosses, number[code], -1).astype(np.int32)

    def ends(self) -> Ints:
        """The end of the step of every candidate."""
        t = self.tables
        if self.loops is None or t.end.staggered.any():
            steps = [self.run(c)[0].step_ps(self.tape, t, c) for c in range(t.num_candidates)]
            return np.array(steps, dtype=np.int64)
        free = np.zeros((self.tape.num_ranks, t.num_candidates), dtype=np.int64)
        costs = (t.duration, t.send, t.latency, t.each_total, t.each_tail, t.last_total)
        self.loops.simulate_fifo_many(
            *(self.given, self.links.num_links, self.by_place, (*costs, t.last_tail)),
            *(self.blocking, self.sizes, free),
        )
        return np.asarray(t.end.ends(free).max(axis=0))

    def run(self, candidate: int) -> tuple[Swept, list[int]]:
        """The times of one candidate, and when each message entered its link."""
        n, ranks = len(self.tape), self.tape.num_ranks
        swept = Swept(*([0] * size for size in (n, n, ranks, ranks)))
        send_start = [0] * n
        if self.links.sharing == "fifo":
            self._fifo(candidate, swept, send_start)
        else:
            self._fair(self._costs(candidate), swept, send_start)
        return swept, send_start

    def _given(self, values: Ints | Codes) -> Any:
        return values if self.loops is not None else values.tolist()

    def _fifo(self, candidate: int, swept: Swept, send_start: list[int]) -> None:
        t = self.tables
        costs = [a[candidate, :, 0].tolist() for a in (t.duration, t.send, t.latency)]
        reduce = (t.each_total, t.each_tail, t.last_total, t.last_tail)
        simulation: Any = fifo_loop.simulate_fifo
        simulation(
            *self.given,
            self.links.num_links,
            *self.by_place,
            *costs,
            tuple(a[candidate, :, 0].tolist() for a in reduce),
            self.blocking,
            tuple([0 if i == 7 else -1] * size for i, size in enumerate(self.sizes)),
            swept.rank_free,
            swept.reduce_free,
            swept.start,
            send_start,
            swept.sent,
        )

    def _costs(self, candidate: int) -> list[list[int]]:
        """Duration, send and latency, whether it reduces, total and tail, by place."""
        t, stage, column = self.tables, self.stage, self.column
        rows = [t.duration[candidate, column, 0]]
        rows += [a[candidate, stage, 0] for a in (t.send, t.latency)]
        total, tail = (np.zeros(len(stage), dtype=np.int64) for _ in range(2))
        for code, totals, tails in ((1, t.each_total, t.each_tail), (2, t.last_total, t.last_tail)):
            own = self.reduces == code
            total[own] = totals[candidate, column[own], 0]
            tail[own] = tails[candidate, column[own], 0]
        return [a.tolist() for a in (*rows, self.reduces, total, tail)]

    def _fair(self, costs: list[list[int]], swept: Swept, send_start: list[int]) -> None:
        names = (
            *("first", "rank_of", "producer", "consumer"),
            *("duration", "send", "latency", "reduces", "total", "tail"),
        )
        by_name: dict[str, Any] = dict(zip(names, (*self.given[:4], *costs), strict=True))
        FairLoop(
            actions=Actions(**by_name, links=self.links.links, blocking=self.blocking),
            start=swept.start,
            send_start=send_start,
            sent=swept.sent,
            rank_free=swept.rank_free,
            reduce_free=swept.reduce_free,
        ).run()
