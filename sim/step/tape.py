"""Lowering: from instruction lists to a tape, which the sweeps of `parplan.sim.fast.fast` follow.

A static schedule is a longest-path problem: an action begins when the one before it on its rank
has ended and its message has arrived, and no time decides an order. A tape holds the actions in
one topological order with all that a sweep needs to know of each; of an overlapped pair three
entries (`parplan.sim.programs.pair_parts`). It does not depend on costs, so one tape serves all
candidates that share a schedule and its size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parplan.sim.programs.arrays import (
    ActionArrays,
    B,
    Codes,
    W,
    action_arrays,
    check_arrays,
)
from parplan.sim.programs.instructions import Program
from parplan.sim.programs.messages import deadlock
from parplan.sim.programs.pair_parts import Entries, entries_of
from parplan.sim.step import sweep
from parplan.sim.step.sweep import compiled_loops
from parplan.sim.ticks import VARIANTS

REDUCES_IF_EACH, REDUCES = 1, 2
"""Marks of actions that make a weight gradient: not the last one of the stage; the last one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tape:
    """The entries of all ranks in a topological order: one element each in all but the last six."""

    place: Codes
    """Place of the entry among all (`pair_parts`): of the action in the lists, which stand one
    after the other, where no pairs overlap."""
    rank: Codes
    stage: Codes
    column: Codes
    """stage x `VARIANTS` + which of the durations of the stage; above that those of `pair_columns`,
    then one column of zeros."""
    slot_in: Codes
    """Where the arrival of the message it needs is kept; -1 if it needs none."""
    slot_out: Codes
    """Where the arrival of the message it makes is kept until used; -1 if it makes none."""
    link: Codes
    """The directed pair of ranks that the message crosses; -1 if it stays on its rank."""
    reduces: Codes
    """0, `REDUCES_IF_EACH` or `REDUCES`; 0 for stages that have copies on several ranks."""
    pair_columns: Codes
    """The columns of forward and backward of the overlapped pairs that differ, shape [kinds, 2]."""
    num_slots: int
    num_links: int
    lists: ActionArrays
    """What was lowered."""
    entries: Entries
    copies: Codes
    """(stage, rank) of every copy of every stage, in order, shape [copies, 2]."""

    def __len__(self) -> int:
        return len(self.place)

    @property
    def num_ranks(self) -> int:
        """Pipeline ranks."""
        return self.lists.num_ranks

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return int(self.copies[-1, 0]) + 1

    def shared_stages(self) -> list[tuple[int, list[int]]]:
        """Stages that several ranks have copies of, and those ranks."""
        stages, ranks = self.copies.T
        several = np.flatnonzero(np.bincount(stages) > 1).tolist()
        return [(stage, ranks[stages == stage].tolist()) for stage in several]

    def action_columns(self) -> Codes:
        """The column of every action, in the order of the lists, as if no pairs overlapped."""
        return _gradients(self.lists)[0]


def lower(program: Program) -> Tape:
    """The tape of `program`.

    Raises `ParplanError` as `simulate` does: when the lists are not complete, or deadlock.
    """
    return lower_arrays(action_arrays(program))


def lower_arrays(lists: ActionArrays, *, compiled: bool | None = None) -> Tape:
    """The tape of lists that are given as arrays.

    `compiled`: whether to use numba; None: where it is loaded already.
    """
    check_arrays(lists)
    entries, copies = entries_of(lists), lists.copies()
    loops = None if compiled is False else compiled_loops(load=bool(compiled))
    order = _ordered(lists, entries, loops)
    slot_in, slot_out, num_slots = _slots(entries, order, loops)
    link, num_links = _links(entries, lists.num_ranks)
    column, reduces = _gradients(lists)
    column, reduces, pair_columns = _of_entries(lists, entries, column, reduces)
    return Tape(
        place=order,
        rank=entries.rank[order],
        stage=entries.stage[order],
        column=column[order],
        slot_in=slot_in,
        slot_out=slot_out,
        link=link[order],
        reduces=reduces[order],
        pair_columns=pair_columns,
        num_slots=num_slots,
        num_links=num_links,
        lists=lists,
        entries=entries,
        copies=copies,
    )


def _ordered(lists: ActionArrays, entries: Entries, loops: Any) -> Codes:
    """The places of the entries in a topological order."""
    n, ranks, rank = len(entries), lists.num_ranks, entries.rank
    # What a rank makes for itself is there when it has come so far.
    own = (rank[entries.producer] == rank) & (entries.producer < np.arange(n))
    producer = np.where(own, -1, entries.producer).astype(np.int32)
    # at, ready, head, behind, need; order
    work: list[Any] = [np.full(size, -1, dtype=np.int32) for size in (*[ranks] * 5, n)]
    work[0][:] = entries.first[:-1]
    given: list[Any] = [entries.first, producer, rank]
    if loops is None:
        given, work = ([a.tolist() for a in arrays] for arrays in (given, work))
    num_done = (loops or sweep).order_actions(*given, *work)
    if num_done < n:
        blocked = [
            (rank, lists.action(int(entries.action[place])))
            for rank, (place, stop) in enumerate(zip(work[0], entries.first[1:], strict=True))
            if place < stop
        ]
        raise deadlock(blocked, lists.num_stages)
    return np.asarray(work[5], dtype=np.int32)


def _slots(entries: Entries, order: Codes, loops: Any) -> tuple[Codes, Codes, int]:
    """Slots in which the entries of `order` find and keep their messages, and the number of slots.

    A message takes the slot that was given back first, or a new one if none is free: its k-th reuse
    is of the k-th slot that was given back, and there are as many new ones as it was short of.
    """
    n = len(order)
    needs, makes = entries.producer[order] >= 0, entries.consumer[order] >= 0
    change = np.zeros(2 * n, dtype=np.int32)
    change[0::2], change[1::2] = needs, -makes.astype(np.int32)
    short = np.maximum.accumulate(np.maximum(-np.cumsum(change, dtype=np.int32), 0))
    is_new = np.diff(short[1::2][makes], prepend=0) > 0
    number = np.cumsum(makes, dtype=np.int32) - 1
    place_in_order = np.empty(n, dtype=np.int32)
    place_in_order[order] = np.arange(n)
    given_back = number[place_in_order[entries.producer[order[needs]]]]
    before: Any = np.full(len(is_new), -1, dtype=np.int64)
    before[~is_new] = given_back[: len(is_new) - int(is_new.sum())]
    taken: Any = np.where(is_new, np.cumsum(is_new) - 1, -1)
    if loops is None:
        before, taken = before.tolist(), taken.tolist()
    (loops or sweep).take_over(before, taken)
    slot = np.asarray(taken, dtype=np.int32)
    slot_in, slot_out = (np.full(n, -1, dtype=np.int32) for _ in range(2))
    slot_in[needs], slot_out[makes] = slot[given_back], slot
    return slot_in, slot_out, int(short[-1])


def _links(entries: Entries, num_ranks: int) -> tuple[Codes, int]:
    """The number of the directed pair of ranks that each entry's message crosses."""
    rank, consumer = entries.rank, entries.consumer
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
    ranks, copies = lists.num_ranks, lists.num_stages * lists.num_ranks
    copy = lists.stage[weight] * ranks + lists.rank()[weight]
    first, last = np.full(copies, len(lists)), np.full(copies, -1)
    np.minimum.at(first, copy, weight)
    np.maximum.at(last, copy, weight)
    first, last = first[last >= 0], last[last >= 0]
    variant = lists.op.copy()
    variant[first] = np.where(lists.op[first] == B, VARIANTS - 2, VARIANTS - 1)
    reduces = np.zeros(len(lists), dtype=np.int32)
    reduces[weight] = REDUCES_IF_EACH
    reduces[last] = REDUCES
    if len(last) > lists.num_stages:
        shared = np.bincount(lists.stage[last]) > 1
        reduces[shared[lists.stage]] = 0
    return lists.stage * VARIANTS + variant, reduces


def _of_entries(
    lists: ActionArrays, entries: Entries, column: Codes, reduces: Codes
) -> tuple[Codes, Codes, Codes]:
    """Column and mark of every entry, and the pairs of columns that overlap."""
    pairs = lists.pairs
    if not len(pairs):
        return column, reduces, np.zeros((0, 2), dtype=np.int32)
    both = np.stack((column[pairs], column[pairs + 1]), axis=1)
    kinds, kind = np.unique(both, axis=0, return_inverse=True)
    pair_column = lists.num_stages * VARIANTS + kind.reshape(-1).astype(np.int32)
    of_entry, mark = column[entries.action], reduces[entries.action]
    of_entry[entries.pair >= 0] = lists.num_stages * VARIANTS + len(kinds)
    mark[entries.pair >= 0] = 0
    of_entry[entries.runs[pairs]] = pair_column
    mark[entries.runs[pairs]] = reduces[pairs + 1]
    return of_entry, mark, kinds
