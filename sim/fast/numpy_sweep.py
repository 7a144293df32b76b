"""Vectorised sweep of many candidates along one tape with numpy."""

import numpy as np

from parplan.sim.step.step_tables import SweepTables
from parplan.sim.step.tape import REDUCES, Tape
from parplan.sim.ticks import Ints

LANES = 1024
"""Candidates in a block: as many as keep the times of all live messages in a core's cache."""


def sweep_numpy(tape: Tape, tables: SweepTables, blocking: bool) -> Ints:
    """The end of the step of every candidate, in picoseconds."""
    steps = list(
        zip(
            *(
                a.tolist()
                for a in (tape.rank, tape.stage, tables.column, tape.slot_in, tape.slot_out)
            ),
            tape.link.tolist(),
            tables.reduces.tolist(),
            strict=True,
        )
    )
    free = [_block(tape, tables, steps, block, blocking) for block in range(len(tables.duration))]
    whole = np.concatenate(free, axis=1)[:, : tables.num_candidates]
    return np.asarray(tables.end.ends(whole).max(axis=0))


def _block(
    tape: Tape, tables: SweepTables, steps: list[tuple[int, ...]], block: int, blocking: bool
) -> Ints:
    """Times at which each rank has finished its list and its reductions, shape [ranks, lanes]."""

    def zeros(rows: int) -> list[Ints]:
        return list(np.zeros((rows, tables.lanes), dtype=np.int64))

    rank_free, reduce_free = zeros(tape.num_ranks), zeros(tape.num_ranks)
    arrival, link_free = zeros(tape.num_slots), zeros(tape.num_links)
    duration, send, latency = (
        list(a[block]) for a in (tables.duration, tables.send, tables.latency)
    )
    sends = bool(tables.send[block].any())
    maximum, add = np.maximum, np.add
    for rank, stage, column, slot_in, slot_out, link, reduces in steps:
        now = rank_free[rank]
        if slot_in >= 0:
            maximum(now, arrival[slot_in], out=now)
        if reduces:
            _reduce(tables, block, column, reduces, now, reduce_free[rank])
        add(now, duration[column], out=now)
        if slot_out >= 0:
            arrived = arrival[slot_out]
            if link < 0:
                arrived[:] = now
            elif sends:
                free = link_free[link]
                maximum(free, now, out=free)
                add(free, send[stage], out=free)
                add(free, latency[stage], out=arrived)
            else:
                add(now, latency[stage], out=arrived)
            if blocking:
                now[:] = arrived
    return np.asarray(np.maximum(rank_free, reduce_free), dtype=np.int64)


def _reduce(
    tables: SweepTables, block: int, column: int, reduces: int, begin: Ints, free: Ints
) -> None:
    last = reduces == REDUCES
    total, tail = (
        (tables.last_total, tables.last_tail) if last else (tables.each_total, tables.each_tail)
    )
    np.maximum(free + total[block, column], begin + tail[block, column], out=free)
