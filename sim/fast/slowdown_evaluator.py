"""The fast evaluator for computations that go slower while messages use their rank.

Then the times of messages change those of computations, so that no order holds for every candidate
and each is simulated event by event, to the same picosecond as in the engine
(`parplan.sim.engine.slowdown` says what goes how fast). A step never takes less time than without
the slowdown.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from parplan.sim.costs import StageCosts
from parplan.sim.fast.as_run import Swept, run_of
from parplan.sim.programs.instructions import Program
from parplan.sim.run import Run
from parplan.sim.step.data_parallel import bucket_spans
from parplan.sim.step.shared_links import FULL_RATE, slow_rate
from parplan.sim.step.step_tables import SweepTables, sweep_tables
from parplan.sim.step.tape import REDUCES, Tape, lower
from parplan.sim.ticks import StageTicks, stage_ticks


def slowed_run(
    schedule: Program,
    costs: Sequence[StageCosts],
    compute_slowdown_during_messages: float,
    *,
    durations_ps: Sequence[int] | None = None,
    blocking_sends: bool = False,
    post_validation: bool = False,
    tape: Tape | None = None,
) -> Run:
    """The run of one candidate, equal to that of `simulate` with the slowdown.

    `tape`: that of the schedule, where it is at hand.
    """
    rate = slow_rate(compute_slowdown_during_messages)
    tape = lower(schedule) if tape is None else tape
    ticks = stage_ticks([costs])
    own = None if durations_ps is None else np.array([durations_ps], dtype=np.int64)
    tables = sweep_tables(tape, ticks, own, 1, post_validation)
    simulation = _Simulation(tape, ticks, tables, rate, blocking_sends)
    simulation.run()
    swept = Swept(simulation.start, simulation.sent, simulation.free, simulation.reduce_free)
    send_start, end = (
        np.array(times, dtype=np.int64) for times in (simulation.send_start, simulation.end)
    )
    return run_of(tape, ticks, tables, swept, send_start, end)


class _Simulation:
    """The times of entries as far as they are known, and what each rank is at."""

    def __init__(
        self, tape: Tape, ticks: StageTicks, tables: SweepTables, rate: int, blocking: bool
    ) -> None:
        self.rate, self.blocking = rate, blocking
        entries, n, ranks = tape.entries, len(tape), tape.num_ranks
        self.first: list[int] = entries.first.tolist()
        self.rank_of, self.stage = entries.rank.tolist(), entries.stage.tolist()
        self.producer, self.consumer = entries.producer.tolist(), entries.consumer.tolist()
        columns, reduces = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        columns[tape.place], reduces[tape.place] = tables.column, tables.reduces
        self.duration: list[int] = tables.duration[0, columns, 0].tolist()
        self.reduces: list[int] = reduces.tolist()
        # The stage that an entry reduces is that of its action, not of its message.
        self.reduced: list[int] = tape.lists.stage[entries.action].tolist()
        self.ticks: dict[str, list[Any]] = {
            name: getattr(ticks, name)[0].tolist()
            for name in ("send", "latency", "reduce", "reduce_buckets", "reduce_each_micro_batch")
        }
        self.start, self.end, self.send_start, self.sent = ([0] * n for _ in range(4))
        self.free, self.reduce_free = [0] * ranks, [0] * ranks
        self.arrival: dict[int, int] = {}
        self.waiting: dict[int, int] = {}
        """By the entry whose message is awaited: the one that waits."""
        self.link_free: dict[tuple[int, int], int] = {}
        self.messages = [0] * ranks
        # What a rank computes: the entry (-1: nothing), the parts left, since when, which plan.
        self.at, self.left, self.since, self.plan = ([x] * ranks for x in (-1, 0, 0, 0))
        self.heap: list[tuple[int, int, int, int]] = []
        """(time, what, rank, number): 0 ends of computations, by plan; 1 arrivals, by entry;
        2 and 3 a message begins and ends to occupy the rank; 4 the rank goes on with an entry."""

    def run(self) -> None:
        """Until nothing is left to do."""
        for rank, entry in enumerate(self.first[:-1]):
            heapq.heappush(self.heap, (0, 4, rank, entry))
        while self.heap:
            now, what, rank, number = heapq.heappop(self.heap)
            if what == 0:
                if number == self.plan[rank] and self.at[rank] >= 0:
                    self._ended(rank, now)
            elif what == 1:
                self._arrived(number, now)
            elif what == 4:
                self._begin(rank, number, now)
            else:
                self._progress(rank, now)
                self.messages[rank] += 1 if what == 2 else -1
                self._replan(rank, now)

    def _begin(self, rank: int, entry: int, now: int) -> None:
        """The rank comes to an entry."""
        if entry == self.first[rank + 1]:
            self.free[rank] = now
            return
        needed = self.producer[entry]
        if needed >= 0 and self.arrival.get(needed, now + 1) > now:
            self.waiting[needed] = entry
            return
        self.at[rank], self.start[entry], self.since[rank] = entry, now, now
        self.left[rank] = self.duration[entry] * FULL_RATE
        self._replan(rank, now)

    def _pace(self, rank: int) -> int:
        return self.rate if self.messages[rank] else FULL_RATE

    def _progress(self, rank: int, now: int) -> None:
        self.left[rank] -= self._pace(rank) * (now - self.since[rank])
        self.since[rank] = now

    def _replan(self, rank: int, now: int) -> None:
        if self.at[rank] >= 0:
            self.plan[rank] += 1
            end = now + max(-(-self.left[rank] // self._pace(rank)), 0)
            heapq.heappush(self.heap, (end, 0, rank, self.plan[rank]))

    def _ended(self, rank: int, now: int) -> None:
        entry, stage = self.at[rank], self.stage[self.at[rank]]
        self.at[rank], self.end[entry] = -1, now
        self._reduce(rank, entry, now)
        arrives = now
        other = self.consumer[entry]
        if other >= 0:
            pair = rank, self.rank_of[other]
            if pair[0] != pair[1]:
                begin = self.send_start[entry] = max(now, self.link_free.get(pair, 0))
                left = self.sent[entry] = begin + self.ticks["send"][stage]
                self.link_free[pair] = left
                arrives = left + self.ticks["latency"][stage]
                for one in pair:
                    heapq.heappush(self.heap, (begin, 2, one, entry))
                    heapq.heappush(self.heap, (left, 3, one, entry))
            heapq.heappush(self.heap, (arrives, 1, rank, entry))
        goes_on = arrives if self.blocking else now
        heapq.heappush(self.heap, (goes_on, 4, rank, entry + 1))

    def _reduce(self, rank: int, entry: int, now: int) -> None:
        t, stage, mark = self.ticks, self.reduced[entry], self.reduces[entry]
        takes, buckets = t["reduce"][stage], t["reduce_buckets"][stage]
        if takes and (mark == REDUCES or (mark and t["reduce_each_micro_batch"][stage])):
            free = self.reduce_free[rank]
            *_, (_, end) = bucket_spans(self.start[entry], now, takes, buckets, free)
            self.reduce_free[rank] = end

    def _arrived(self, entry: int, now: int) -> None:
        self.arrival[entry] = now
        other = self.waiting.pop(entry, None)
        if other is not None:
            self._begin(self.rank_of[other], other, now)
