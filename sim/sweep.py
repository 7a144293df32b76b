"""The loops over a tape, as plain loops over integers.

They run on lists, and compiled on arrays where numba is installed (`parplan.sim.compiled`): the
same source either way.
"""

import importlib
import sys
from collections.abc import MutableSequence, Sequence
from types import ModuleType

Read = Sequence[int]
Write = MutableSequence[int]


def order_actions(
    first: Read,
    producer: Read,
    consumer: Read,
    at: Write,
    ready: Write,
    waiter: Write,
    slot_of: Write,
    free: Write,
    order: Write,
    slot_in: Write,
    slot_out: Write,
) -> tuple[int, int]:
    """Fill `order` with the places of the actions in a topological order, and the slots of each.

    Each rank runs until it lacks a message. A slot is used again once its message is consumed.
    `at`: where each rank begins, then where it stopped. Given filled with -1: `waiter`, `slot_of`,
    `slot_in`, `slot_out`. Returns how many actions are ordered (fewer than there are when the
    ranks wait for each other) and how many slots are used.
    """
    num_ready, done, slots, top = len(at), 0, 0, 0
    for rank in range(num_ready):
        ready[rank] = num_ready - 1 - rank
    while num_ready:
        num_ready -= 1
        rank = ready[num_ready]
        place, stop = at[rank], first[rank + 1]
        while place < stop:
            needed = producer[place]
            if needed >= 0:
                slot = slot_of[needed]
                if slot < 0:
                    waiter[needed] = rank
                    break
                slot_in[done] = slot
                free[top] = slot
                top += 1
            order[done] = place
            if consumer[place] >= 0:
                if top:
                    top -= 1
                    slot = free[top]
                else:
                    slot = slots
                    slots += 1
                slot_of[place] = slot
                slot_out[done] = slot
                if waiter[place] >= 0:
                    ready[num_ready] = waiter[place]
                    num_ready += 1
            done += 1
            place += 1
        at[rank] = place
    return done, slots


def sweep(
    tape: tuple[Read, Read, Read, Read, Read, Read, Read, Read],
    duration: Read,
    send: Read,
    latency: Read,
    reduce: tuple[Read, Read, Read, Read],
    blocking: bool,
    arrival: Write,
    link_free: Write,
    rank_free: Write,
    reduce_free: Write,
    start: Write,
    sent: Write,
) -> None:
    """One candidate along a tape: when each action starts, when its message has left its link.

    `tape`: place, rank, stage, column, slot_in, slot_out, link, reduces. `duration` by column,
    `send` and `latency` by stage. `reduce`: total and tail (`parplan.sim.fast`) by column, of
    reductions in every micro-batch and of the last one. The rest is state, given as zeros.
    """
    places, ranks, stages, columns, slots_in, slots_out, links, reduces = tape
    each_total, each_tail, last_total, last_tail = reduce
    for k in range(len(places)):
        place, rank, column = places[k], ranks[k], columns[k]
        now = rank_free[rank]
        if slots_in[k] >= 0:
            now = max(now, arrival[slots_in[k]])
        start[place] = now
        if reduces[k] == 2:
            reduce_free[rank] = max(reduce_free[rank] + last_total[column], now + last_tail[column])
        elif reduces[k] == 1:
            reduce_free[rank] = max(reduce_free[rank] + each_total[column], now + each_tail[column])
        now += duration[column]
        if slots_out[k] >= 0:
            arrived, link = now, links[k]
            if link >= 0:
                stage = stages[k]
                left = max(link_free[link], now) + send[stage]
                link_free[link] = left
                sent[place] = left
                arrived = left + latency[stage]
            arrival[slots_out[k]] = arrived
            if blocking:
                now = arrived
        rank_free[rank] = now


def compiled_loops(*, load: bool) -> ModuleType | None:
    """`parplan.sim.compiled`; None where numba is missing, or not loaded yet unless `load`."""
    name = "parplan.sim.compiled"
    if not load:
        return sys.modules.get(name)
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError):
        return None  # RuntimeError: numba finds no folder for its machine code.
