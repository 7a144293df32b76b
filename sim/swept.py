"""From the times that a sweep or an event kernel found to the whole `Run`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parplan.sim.data_parallel import Span, bucket_spans, finish_spans, reduce_spans
from parplan.sim.lowering import REDUCES, Tape
from parplan.sim.recording import Played, as_run
from parplan.sim.run import Run
from parplan.sim.tables import SweepTables
from parplan.sim.ticks import Ints, StageTicks


@dataclass(frozen=True, slots=True)
class Swept:
    """The times of one candidate; by rank when its list is done and its gradients are reduced."""

    start: Any
    sent: Any
    rank_free: Any
    reduce_free: Any

    def ends(self, tables: SweepTables, candidate: int) -> Ints:
        """The end of each rank, optimizer and gather included."""
        free = np.maximum(self.rank_free, self.reduce_free)
        return np.asarray(free + tables.finish[candidate, :, 0], dtype=np.int64)


def run_of(
    tape: Tape, ticks: StageTicks, tables: SweepTables, swept: Swept, send_start: Ints
) -> Run:
    """The run of the one candidate of `ticks`."""
    duration = np.zeros(len(tape), dtype=np.int64)
    duration[tape.place] = tables.duration[0, tables.column, 0]
    start = np.asarray(swept.start, dtype=np.int64)
    played = Played(
        start=start,
        end=start + duration,
        send_start=send_start,
        send_end=np.asarray(swept.sent, dtype=np.int64),
        spans=_spans(tape, ticks, swept, start + duration),
        end_ps=int(swept.ends(tables, 0).max()),
    )
    return as_run(tape.lists, played)


def _spans(tape: Tape, ticks: StageTicks, swept: Swept, end: Ints) -> list[Span]:
    """Reductions, optimizer steps and gathers of each rank."""
    spans: list[Span] = []
    reduces = np.zeros(len(tape), dtype=np.int32)
    reduces[tape.place] = tape.reduces
    total, buckets = ticks.reduce[0].tolist(), ticks.reduce_buckets[0].tolist()
    each, free = ticks.reduce_each_micro_batch[0].tolist(), [0] * tape.num_ranks
    rank_of = tape.rank_of_stage.tolist()
    for place in np.flatnonzero(reduces).tolist():
        stage = int(tape.lists.stage[place])
        if total[stage] and (each[stage] or reduces[place] == REDUCES):
            rank, begin = rank_of[stage], int(swept.start[place])
            own = bucket_spans(begin, int(end[place]), total[stage], buckets[stage], free[rank])
            spans += reduce_spans(rank, stage, own)
            free[rank] = spans[-1].end_ps
    optimizer, gather = ticks.optimizer[0].tolist(), ticks.gather[0].tolist()
    for rank in range(tape.num_ranks):
        stages = [(s, optimizer[s], gather[s]) for s, r in enumerate(rank_of) if r == rank]
        now = max(swept.rank_free[rank], swept.reduce_free[rank])
        spans += finish_spans(rank, now, stages)[0]
    return spans
