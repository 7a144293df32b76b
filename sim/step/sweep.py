"""The loops over a tape, as plain loops over integers.

They run on lists, and compiled on arrays where numba is installed (`parplan.sim.fast.numba_loops`):
the same source either way.
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
    rank_of: Read,
    at: Write,
    ready: Write,
    head: Write,
    behind: Write,
    need: Write,
    order: Write,
) -> int:
    """Fill `order` with the places of the entries in a topological order.

    Each rank runs until it lacks a message. `at`: where each rank begins, then where it stopped.
    The ranks that wait for messages of a rank are a list: `head`, given filled with -1, is the
    first one of it, `behind` the next one after each, `need` what each waits for. Returns how many
    entries are ordered: fewer than there are when the ranks wait for each other.
    """
    num_ready, done = len(at), 0
    for rank in range(num_ready):
        ready[rank] = num_ready - 1 - rank
    while num_ready:
        num_ready -= 1
        rank = ready[num_ready]
        place, stop = at[rank], first[rank + 1]
        while place < stop:
            needed = producer[place]
            source = rank_of[needed]
            if needed >= at[source]:  # Never for -1.
                need[rank] = needed
                behind[rank] = head[source]
                head[source] = rank
                break
            order[done] = place
            done += 1
            place += 1
        at[rank] = place
        waits = head[rank]
        head[rank] = -1
        while waits >= 0:
            after = behind[waits]
            if need[waits] < place:
                ready[num_ready] = waits
                num_ready += 1
            else:
                behind[waits] = head[rank]
                head[rank] = waits
            waits = after
    return done


def take_over(before: Read, slot: Write) -> None:
    """Fill the `slot` of each message that takes that of an earlier one, `before` (-1: of none)."""
    for number in range(len(before)):
        if before[number] >= 0:
            slot[number] = slot[before[number]]


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
    `send` and `latency` by stage. `reduce`: total and tail (`parplan.sim.fast.fast`) by column, of
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
    """The module `numba_loops`; None where numba is missing, or not loaded yet unless `load`."""
    name = "parplan.sim.fast.numba_loops"
    if not load:
        return sys.modules.get(name)
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError):
        return None  # RuntimeError: numba finds no folder for its machine code.
