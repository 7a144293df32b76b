"""Lowering: from instruction lists to a tape, which the sweeps of `parplan.sim.fast` follow.

A static schedule is a longest-path problem: an action begins when the one before it on its rank
has ended and its message has arrived, and no time decides an order. A tape holds the actions in
one topological order with all that a sweep needs to know of each. It does not depend on costs, so
one tape serves all candidates that share a schedule and its size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parplan.sim import sweep
from parplan.sim.action_arrays import (
    ActionArrays,
    B,
    Codes,
    F,
    I,
    W,
    action_arrays,
    check_arrays,
    places,
)
from parplan.sim.instructions import Schedule
from parplan.sim.messages import deadlock
from parplan.sim.sweep import compiled_loops
from parplan.sim.ticks import VARIANTS

REDUCES_IF_EACH, REDUCES = 1, 2
"""Marks of actions that make a weight gradient: not the last one of the stage; the last one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tape:
    """The actions of all ranks in a topological order, one entry each in all but the last four."""

    place: Codes
    """Place of the action in the lists, which stand one after the other."""
    rank: Codes
    stage: Codes
    column: Codes
    """stage x `VARIANTS` + which of the durations of the stage."""
    slot_in: Codes
    """Where the arrival of the message it needs is kept; -1 if it needs none."""
    slot_out: Codes
    """Where the arrival of the message it makes is kept until used; -1 if it makes none."""
    link: Codes
    """The directed pair of ranks that the message crosses; -1 if it stays on its rank."""
    reduces: Codes
    """0, `REDUCES_IF_EACH` or `REDUCES`."""
    rank_of_stage: Codes
    num_slots: int
    num_links: int
    lists: ActionArrays
    """What was lowered."""

    def __len__(self) -> int:
        return len(self.place)

    @property
    def num_ranks(self) -> int:
        """Pipeline ranks."""
        return self.lists.num_ranks

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return len(self.rank_of_stage)


def lower(schedule: Schedule) -> Tape:
    """The tape of `schedule`.

    Raises `ParplanError` as `simulate` does: when the lists are not complete, or deadlock.
    """
    return lower_arrays(action_arrays(schedule))


def lower_arrays(lists: ActionArrays, *, compiled: bool | None = None) -> Tape:
    """The tape of lists that are given as arrays.

    `compiled`: whether to use numba; None: where it is loaded already.
    """
    check_arrays(lists)
    producer, consumer = partners(lists)
    loops = None if compiled is False else compiled_loops(load=bool(compiled))
    order, slot_in, slot_out, num_slots = _ordered(lists, producer, consumer, loops)
    rank = lists.rank()
    rank_of = np.zeros(lists.num_stages, dtype=np.int32)
    rank_of[lists.stage] = rank
    link, num_links = _links(rank, consumer, lists.num_ranks)
    column, reduces = _gradients(lists)
    return Tape(
        place=order,
        rank=rank[order],
        stage=lists.stage[order],
        column=column[order],
        slot_in=slot_in,
        slot_out=slot_out,
        link=link[order],
        reduces=reduces[order],
        rank_of_stage=rank_of,
        num_slots=num_slots,
        num_links=num_links,
        lists=lists,
    )


def partners(lists: ActionArrays) -> tuple[Codes, Codes]:
    """For each action the place of the one whose message it needs, and of the one that needs its
    own; -1 for none."""
    stages, size = lists.num_stages, lists.num_micro_batches
    place = places(lists, stages).reshape(4, stages, size)
    gradient = np.maximum(place[B], place[I])
    producer = np.full(len(lists), -1, dtype=np.int32)
    producer[place[F, 1:]] = place[F, :-1]
    producer[gradient[:-1]] = gradient[1:]
    consumer = np.full(len(lists), -1, dtype=np.int32)
    consumer[place[F, :-1]] = place[F, 1:]
    consumer[gradient[1:]] = gradient[:-1]
    return producer, consumer


def _ordered(
    lists: ActionArrays, producer: Codes, consumer: Codes, loops: Any
) -> tuple[Codes, Codes, Codes, int]:
    n, ranks = len(lists), lists.num_ranks
    # at, ready; waiter, slot_of; free, order; slot_in, slot_out
    sizes = (ranks, ranks, n, n, n, n, n, n)
    work: list[Any] = [np.full(size, -1, dtype=np.int32) for size in sizes]
    work[0][:] = lists.first[:-1]
    given: list[Any] = [lists.first, producer, consumer]
    if loops is None:
        given, work = ([a.tolist() for a in arrays] for arrays in (given, work))
    num_done, num_slots = (loops or sweep).order_actions(*given, *work)
    at, order, slot_in, slot_out = (np.asarray(work[i], dtype=np.int32) for i in (0, 5, 6, 7))
    if num_done < len(lists):
        blocked = [
            (rank, lists.action(int(place)))
            for rank, (place, stop) in enumerate(zip(at, lists.first[1:], strict=True))
            if place < stop
        ]
        raise deadlock(blocked, lists.num_stages)
    return order, slot_in, slot_out, num_slots


def _links(rank: Codes, consumer: Codes, num_ranks: int) -> tuple[Codes, int]:
    """The number of the directed pair of ranks that each action's message crosses."""
    to_rank = rank[consumer]
    crosses = (consumer >= 0) & (to_rank != rank)
    pair = rank * num_ranks + to_rank
    used = np.zeros(num_ranks * num_ranks, dtype=np.int32)
    used[pair[crosses]] = 1
    number = np.cumsum(used, dtype=np.int32) - 1
    return np.where(crosses, number[pair], -1).astype(np.int32), int(used.sum())


def _gradients(lists: ActionArrays) -> tuple[Codes, Codes]:
    """The column of durations of each action, and whether it reduces gradients."""
    weight = np.flatnonzero((lists.op == B) | (lists.op == W))
    first = np.full(lists.num_stages, len(lists))
    last = np.full(lists.num_stages, -1)
    np.minimum.at(first, lists.stage[weight], weight)
    np.maximum.at(last, lists.stage[weight], weight)
    variant = lists.op.copy()
    variant[first] = np.where(lists.op[first] == B, VARIANTS - 2, VARIANTS - 1)
    reduces = np.zeros(len(lists), dtype=np.int32)
    reduces[weight] = REDUCES_IF_EACH
    reduces[last] = REDUCES
    return lists.stage * VARIANTS + variant, reduces
