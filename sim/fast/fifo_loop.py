"""Simulation of one candidate over links that serve first come, first served, event by event.

A plain loop over integers, which runs on lists, and compiled on arrays where numba is installed.
Only the ends of actions and the turns of shared links are events; what follows from them is known
at once.
"""

import heapq
from collections.abc import MutableSequence, Sequence

Read = Sequence[int]
Write = MutableSequence[int]


def simulate_fifo(
    first: Read,
    rank_of: Read,
    producer: Read,
    consumer: Read,
    link: Read,
    num_shared: int,
    column: Read,
    stage: Read,
    reduces: Read,
    duration: Read,
    send: Read,
    latency: Read,
    reduce: tuple[Read, Read, Read, Read],
    blocking: bool,
    state: tuple[Write, Write, Write, Write, Write, Write, Write, Write, Write, Write],
    rank_free: Write,
    reduce_free: Write,
    start: Write,
    send_start: Write,
    sent: Write,
) -> None:
    """Fill the last five: by rank the end of its list and of its reductions, by place the times.

    `first`: by rank, the place of its first action. Up to `reduces` the rest is by place:
    `producer` and `consumer` are the places of the partners (-1: none), `link` that of the message
    (-1: it stays on its rank; below `num_shared`: shared). Costs are by column and by stage, as in
    `parplan.sim.step.sweep`. `state`: at, ready, todo by rank; arrival, waiter, before, behind by
    place; free, last, head by link; filled with -1, but `free` with 0.
    """
    at, ready, todo, arrival, waiter, before, behind, free, last, head = state
    each_total, each_tail, last_total, last_tail = reduce
    ranks = len(rank_free)
    heap = [(0, 0)]
    heap.pop()
    for rank in range(ranks):
        at[rank] = first[rank] - 1
        ready[rank] = 0
        todo[rank] = rank
    num_todo = ranks
    while True:
        while num_todo > 0:
            num_todo -= 1
            rank = todo[num_todo]
            now, place = ready[rank], at[rank] + 1
            if place == first[rank + 1]:
                rank_free[rank] = now
                continue
            needed = producer[place]
            if needed >= 0:
                if arrival[needed] < 0:
                    waiter[needed] = rank
                    continue
                now = max(now, arrival[needed])
            at[rank] = place
            start[place] = now
            cost = column[place]
            if reduces[place] == 2:
                reduce_free[rank] = max(reduce_free[rank] + last_total[cost], now + last_tail[cost])
            elif reduces[place] == 1:
                reduce_free[rank] = max(reduce_free[rank] + each_total[cost], now + each_tail[cost])
            heapq.heappush(heap, (now + duration[cost], rank))
        if len(heap) == 0:
            return
        now, key = heapq.heappop(heap)
        arrived = -1
        if key < ranks:
            place = at[key]
            here = link[place]
            if not blocking or consumer[place] < 0:
                ready[key] = now
                todo[num_todo] = key
                num_todo += 1
            if consumer[place] >= 0:
                if here < 0:
                    arrived = now
                elif here >= num_shared:
                    begin = max(now, free[here])
                    send_start[place] = begin
                    begin += send[stage[place]]
                    free[here] = begin
                    sent[place] = begin
                    arrived = begin + latency[stage[place]]
                else:
                    # Behind all that were ready before, or now and stand before it.
                    sent[place] = now
                    ahead = last[here]
                    after = -1
                    while ahead >= 0 and sent[ahead] == now and ahead > place:
                        after = ahead
                        ahead = before[ahead]
                    before[place] = ahead
                    behind[place] = after
                    if ahead >= 0:
                        behind[ahead] = place
                    if after >= 0:
                        before[after] = place
                    else:
                        last[here] = place
                    if head[here] < 0:
                        heapq.heappush(heap, (max(now, free[here]), ranks + here))
                    if ahead < 0:
                        head[here] = place
        else:
            here = key - ranks
            place = head[here]
            head[here] = behind[place]
            if head[here] < 0:
                last[here] = -1
            else:
                before[head[here]] = -1
            send_start[place] = now
            free[here] = now + send[stage[place]]
            sent[place] = free[here]
            arrived = free[here] + latency[stage[place]]
            if head[here] >= 0:
                heapq.heappush(heap, (free[here], key))
        if arrived >= 0:
            arrival[place] = arrived
            if blocking:
                ready[rank_of[place]] = arrived
                todo[num_todo] = rank_of[place]
                num_todo += 1
            if waiter[place] >= 0:
                todo[num_todo] = waiter[place]
                num_todo += 1
