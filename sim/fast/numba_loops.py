"""The loops over tapes, compiled by numba. Importing this module raises `ImportError` without it.

Integers only, so that a compiler has nothing to round: the results are those of the other sweeps.
"""

from typing import Any

import numba
import numpy as np

from parplan.sim.fast import fifo_loop
from parplan.sim.step import sweep as loops

LANES = 32
"""Candidates that one loop handles side by side, in vector registers."""

order_actions: Any = numba.njit(cache=True)(loops.order_actions)
take_over: Any = numba.njit(cache=True)(loops.take_over)
sweep: Any = numba.njit(cache=True)(loops.sweep)
simulate_fifo: Any = numba.njit(cache=True)(fifo_loop.simulate_fifo)


def _sweep_blocks(tape: Any, tables: Any, sizes: Any, blocking: bool, end: Any) -> None:
    """Fill `end` with when each rank is done with its list and its reductions.

    end: shape [ranks, blocks, lanes]. sizes: ranks, slots, links.
    """
    rank, stage, column, slot_in, slot_out, link, reduces = tape
    duration, send, latency, each_total, each_tail, last_total, last_tail = tables
    rank_free = np.zeros((sizes[0], LANES), dtype=np.int64)
    reduce_free = np.zeros((sizes[0], LANES), dtype=np.int64)
    arrival = np.zeros((sizes[1], LANES), dtype=np.int64)
    link_free = np.zeros((sizes[2], LANES), dtype=np.int64)
    for block in range(len(duration)):
        rank_free[:] = 0
        reduce_free[:] = 0
        link_free[:] = 0
        for k in range(len(rank)):
            now, c = rank_free[rank[k]], column[k]
            if slot_in[k] >= 0:
                came = arrival[slot_in[k]]
                for j in range(LANES):
                    now[j] = max(now[j], came[j])
            if reduces[k] > 0:
                busy = reduce_free[rank[k]]
                if reduces[k] == 2:
                    for j in range(LANES):
                        done = now[j] + last_tail[block, c, j]
                        busy[j] = max(busy[j] + last_total[block, c, j], done)
                else:
                    for j in range(LANES):
                        done = now[j] + each_tail[block, c, j]
                        busy[j] = max(busy[j] + each_total[block, c, j], done)
            takes = duration[block, c]
            for j in range(LANES):
                now[j] += takes[j]
            if slot_out[k] >= 0:
                goes = arrival[slot_out[k]]
                if link[k] < 0:
                    for j in range(LANES):
                        goes[j] = now[j]
                else:
                    free = link_free[link[k]]
                    size, lag = send[block, stage[k]], latency[block, stage[k]]
                    for j in range(LANES):
                        left = max(free[j], now[j]) + size[j]
                        free[j] = left
                        goes[j] = left + lag[j]
                if blocking:
                    for j in range(LANES):
                        now[j] = goes[j]
        for r in range(sizes[0]):
            for j in range(LANES):
                end[r, block, j] = max(rank_free[r, j], reduce_free[r, j])


sweep_blocks: Any = numba.njit(cache=True)(_sweep_blocks)


def _simulate_fifo_many(
    given: Any,
    num_shared: int,
    by_place: Any,
    costs: Any,
    blocking: bool,
    sizes: Any,
    end: Any,
) -> None:
    """`simulate_fifo` of all candidates: `end`, shape [ranks, candidates], as in `sweep_blocks`."""
    first, rank_of, producer, consumer, link = given
    column, stage, reduces = by_place
    duration, send, latency, each_total, each_tail, last_total, last_tail = costs
    ranks, places, links = sizes[0], sizes[3], sizes[7]
    by_rank = np.zeros((5, ranks), dtype=np.int64)
    of_place = np.zeros((7, places), dtype=np.int64)
    by_link = np.zeros((3, links), dtype=np.int64)
    for c in range(end.shape[1]):
        by_rank[:3] = -1
        by_rank[3:] = 0
        of_place[:4] = -1
        by_link[0] = 0
        by_link[1:] = -1
        simulate_fifo(
            first,
            rank_of,
            producer,
            consumer,
            link,
            num_shared,
            column,
            stage,
            reduces,
            duration[c, :, 0],
            send[c, :, 0],
            latency[c, :, 0],
            (each_total[c, :, 0], each_tail[c, :, 0], last_total[c, :, 0], last_tail[c, :, 0]),
            blocking,
            (
                by_rank[0],
                by_rank[1],
                by_rank[2],
                of_place[0],
                of_place[1],
                of_place[2],
                of_place[3],
                by_link[0],
                by_link[1],
                by_link[2],
            ),
            by_rank[3],
            by_rank[4],
            of_place[4],
            of_place[5],
            of_place[6],
        )
        for r in range(ranks):
            end[r, c] = max(by_rank[3, r], by_rank[4, r])


# Not kept: numba would not notice when the source of `simulate_fifo`, another file, has changed.
simulate_fifo_many: Any = numba.njit(_simulate_fifo_many)
