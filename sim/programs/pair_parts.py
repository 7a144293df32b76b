"""Actions of the lists with overlapped pairs split into three parts.

A pair waits for the input of its forward; waits for that of its backward, runs both, and sends the
result of the forward; sends that of the backward. With the first and the last part taking no time,
every simulator that knows actions knows pairs.
"""

from dataclasses import dataclass

import numpy as np

from parplan.sim.programs.arrays import ActionArrays, B, Codes, F, I, places


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entries:
    """Arrays by entry, the entries of all ranks one after the other, and (last three) by action."""

    first: Codes
    """By rank: its first entry; and the number of all."""
    action: Codes
    """The action that it stands for, which of a pair's parts waits or sends for which."""
    rank: Codes
    stage: Codes
    """Of the action whose message it sends."""
    producer: Codes
    """The entry whose message it needs; -1 for none."""
    consumer: Codes
    """The entry that needs its message; -1 for none."""
    pair: Codes
    """Which of the pairs it is part of; -1 for none."""
    runs: Codes
    """The entry that computes the action."""
    waits: Codes
    """The entry that waits for its message."""
    sends: Codes
    """The entry that sends its message."""

    def __len__(self) -> int:
        return len(self.action)


def entries_of(lists: ActionArrays) -> Entries:
    """The entries of complete lists."""
    n, pairs = len(lists), lists.pairs
    runs = np.arange(n, dtype=np.int32)
    action, first = runs, lists.first
    waits = sends = runs
    pair = np.full(n, -1, dtype=np.int32)
    if len(pairs):
        is_pair = np.zeros(n + 1, dtype=np.int32)
        is_pair[pairs] = 1
        before = (np.cumsum(is_pair) - is_pair).astype(np.int32)
        sends = runs + before[:-1]
        first = first + before[first]
        runs, waits, sends = sends.copy(), sends.copy(), sends.copy()
        main = waits[pairs] + 1
        runs[pairs] = runs[pairs + 1] = waits[pairs + 1] = sends[pairs] = main
        action, pair = (np.full(n + len(pairs), -1, dtype=np.int32) for _ in range(2))
        action[waits] = np.arange(n)
        action[sends[pairs + 1]] = pairs + 1
        for part in range(3):
            pair[main - 1 + part] = np.arange(len(pairs))
    producer, consumer = partners(lists)
    stage = lists.stage
    if len(pairs):
        of_message = action.copy()
        of_message[sends] = np.arange(n)
        stage = stage[of_message]
        needed, needing = (np.full(len(action), -1, dtype=np.int32) for _ in range(2))
        needed[waits] = np.where(producer >= 0, sends[producer], -1)
        needing[sends] = np.where(consumer >= 0, waits[consumer], -1)
        producer, consumer = needed, needing
    return Entries(
        first=first,
        action=action,
        rank=lists.rank()[action],
        stage=stage,
        producer=producer,
        consumer=consumer,
        pair=pair,
        runs=runs,
        waits=waits,
        sends=sends,
    )


def partners(lists: ActionArrays) -> tuple[Codes, Codes]:
    """Places of the action whose message each one needs, and of the one that needs its own.

    -1 for none.
    """
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
