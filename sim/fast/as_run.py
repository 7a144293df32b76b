"""Conversion of evaluator times to a `Run`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parplan.sim.event_table import NORM, REDUCE
from parplan.sim.run import Run
from parplan.sim.step.data_parallel import Span, bucket_spans, finish_spans, reduce_spans
from parplan.sim.step.recording import StepRecord, as_run
from parplan.sim.step.self_check import check_simulated
from parplan.sim.step.step_end import longest_ps
from parplan.sim.step.step_tables import SweepTables
from parplan.sim.step.tape import REDUCES, Tape
from parplan.sim.ticks import Ints, StageTicks


@dataclass(frozen=True, slots=True)
class Swept:
    """The times of one candidate by entry; by rank when its list is done, its gradients reduced."""

    start: Any
    sent: Any
    rank_free: Any
    reduce_free: Any

    def free(self) -> Ints:
        """Times at which ranks have finished lists and overlapped reductions, shape [ranks, 1]."""
        free = np.maximum(self.rank_free, self.reduce_free)
        return np.asarray(free, dtype=np.int64).reshape(-1, 1)

    def ends(self, tables: SweepTables, candidate: int) -> Ints:
        """The end of each rank, optimizer and gather included."""
        return np.asarray(tables.end.ends(self.free(), slice(candidate, candidate + 1))[:, 0])

    def step_ps(self, tape: Tape, tables: SweepTables, candidate: int) -> int:
        """The time from step to step."""
        ends = self.ends(tables, candidate)
        if not tables.end.staggered[candidate]:
            return int(ends.max())
        return longest_ps(ends, np.asarray(self.start, dtype=np.int64), tape.entries.first)


def run_of(
    tape: Tape,
    ticks: StageTicks,
    tables: SweepTables,
    swept: Swept,
    send_start: Ints,
    end: Ints | None = None,
) -> Run:
    """The run of the one candidate of `ticks`; `send_start` and `end` by entry.

    `end`: None if everything takes as long as `tables` says.
    """
    entries = tape.entries
    start = np.asarray(swept.start, dtype=np.int64)
    if end is None:
        duration = np.zeros(len(tape), dtype=np.int64)
        duration[tape.place] = tables.duration[0, tables.column, 0]
        end = start + duration
    start, end = start[entries.runs], end[entries.runs]
    simulated = StepRecord(
        start=start,
        end=end,
        send_start=send_start[entries.sends],
        send_end=np.asarray(swept.sent, dtype=np.int64)[entries.sends],
        spans=[*_reductions(tape, ticks, start, end), *_ends(tape, ticks, tables, swept)],
        end_ps=swept.step_ps(tape, tables, 0),
        staggered=bool(tables.end.staggered[0]),
    )
    check_simulated(tape.lists, simulated)
    return as_run(tape.lists, simulated)


def _reductions(tape: Tape, ticks: StageTicks, start: Ints, end: Ints) -> list[Span]:
    """The reductions of stages of one rank, beside its list."""
    spans: list[Span] = []
    reduces = np.zeros(len(tape), dtype=np.int32)
    reduces[tape.place] = tape.reduces
    reduces = reduces[tape.entries.runs]
    reduces[tape.lists.pairs] = 0
    total, buckets = ticks.reduce[0].tolist(), ticks.reduce_buckets[0].tolist()
    each, free = ticks.reduce_each_micro_batch[0].tolist(), [0] * tape.num_ranks
    rank_of = tape.lists.rank()
    for place in np.flatnonzero(reduces).tolist():
        stage, rank = int(tape.lists.stage[place]), int(rank_of[place])
        if total[stage] and (each[stage] or reduces[place] == REDUCES):
            begin = int(start[place])
            own = bucket_spans(begin, int(end[place]), total[stage], buckets[stage], free[rank])
            spans += reduce_spans(rank, stage, own)
            free[rank] = spans[-1].end_ps
    return spans


def _ends(tape: Tape, ticks: StageTicks, tables: SweepTables, swept: Swept) -> list[Span]:
    """Shared reductions, norm, optimizer steps and gathers of each rank."""
    spans: list[Span] = []
    free = swept.free()[:, 0].tolist()
    for stage, ranks in tables.end.shared:
        begin, takes = max(free[rank] for rank in ranks), int(ticks.reduce[0, stage])
        for rank in ranks:
            spans += [Span(rank, stage, REDUCE, begin, begin + takes)] * (takes > 0)
            free[rank] = begin + takes
    norm, starts = int(tables.end.norm[0]), tables.end.optimizer_starts(swept.free())[:, 0].tolist()
    optimizer, gather = ticks.optimizer[0].tolist(), ticks.gather[0].tolist()
    for rank, now in enumerate(starts):
        own = [stage for stage, on in tape.copies.tolist() if on == rank]
        if norm and own and not tables.end.post_validation[0]:
            spans.append(Span(rank, own[0], NORM, now - norm, now))
        spans += finish_spans(rank, now, [(s, optimizer[s], gather[s]) for s in own])[0]
    return spans
