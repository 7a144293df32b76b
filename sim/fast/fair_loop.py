"""Simulation of one candidate over links that are shared fairly, event by event."""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from parplan.sim.step.shared_links import FULL_RATE, Pair, fair_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """Actions by place in the lists; `first` by rank, `links` by pair of ranks."""

    first: Sequence[int]
    rank_of: Sequence[int]
    producer: Sequence[int]
    consumer: Sequence[int]
    duration: Sequence[int]
    send: Sequence[int]
    latency: Sequence[int]
    reduces: Sequence[int]
    total: Sequence[int]
    tail: Sequence[int]
    links: Mapping[Pair, Sequence[int]]
    blocking: bool


@dataclass(slots=True, kw_only=True)
class FairLoop:
    """The times of actions and messages by place, and of ranks, as far as they are known."""

    actions: Actions
    start: list[int]
    send_start: list[int]
    sent: list[int]
    rank_free: list[int]
    reduce_free: list[int]
    arrival: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By the place whose message is awaited: since when, and the place that waits."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """A heap of the ends of actions."""
    own_free: dict[Pair, int] = field(default_factory=dict)
    queues: dict[Pair, deque[int]] = field(default_factory=dict)
    left: dict[Pair, int] = field(default_factory=dict)
    rates: dict[Pair, int] = field(default_factory=dict)
    now: int = 0

    def run(self) -> None:
        """Until nothing is left to do."""
        for place, end in pairwise(self.actions.first):
            if place < end:
                self._begin(place, 0)
        while self.ends or self.left:
            flow_end = self._flow_end()
            if flow_end is None or (self.ends and self.ends[0][0] <= flow_end):
                time, place = heapq.heappop(self.ends)
                self._progress(time)
                self._ended(place)
            else:
                self._progress(flow_end)
                self._messages_ended()

    def _begin(self, place: int, now: int) -> None:
        """The action at `place`, which its rank may begin at `now`, if its message is there."""
        a = self.actions
        rank = a.rank_of[place]
        needed = a.producer[place]
        if needed >= 0 and needed not in self.arrival:
            self.waiting[needed] = now, place
            return
        self.start[place] = now = max(now, self.arrival.get(needed, 0))
        if a.reduces[place]:
            done = self.reduce_free[rank] + a.total[place]
            self.reduce_free[rank] = max(done, now + a.tail[place])
        heapq.heappush(self.ends, (now + a.duration[place], place))

    def _next(self, place: int, now: int) -> None:
        rank = self.actions.rank_of[place]
        if place + 1 < self.actions.first[rank + 1]:
            self._begin(place + 1, now)
        else:
            self.rank_free[rank] = now

    def _ended(self, place: int) -> None:
        a = self.actions
        if a.consumer[place] < 0:
            self._next(place, self.now)
            return
        if not a.blocking:
            self._next(place, self.now)
        pair = a.rank_of[place], a.rank_of[a.consumer[place]]
        if pair[0] == pair[1]:
            self._arrives(place, self.now)
        elif pair in a.links:
            self.queues.setdefault(pair, deque()).append(place)
            if pair not in self.left:
                self._send(pair)
                self.rates = fair_rates(a.links, self.left)
        else:
            self.send_start[place] = max(self.now, self.own_free.get(pair, 0))
            self.own_free[pair] = self.sent[place] = self.send_start[place] + a.send[place]
            self._arrives(place, self.sent[place] + a.latency[place])

    def _arrives(self, place: int, time: int) -> None:
        self.arrival[place] = time
        if self.actions.blocking:
            self._next(place, time)
        if place in self.waiting:
            since, other = self.waiting.pop(place)
            self._begin(other, since)

    def _send(self, pair: Pair) -> None:
        place = self.queues[pair][0]
        self.send_start[place] = self.now
        self.left[pair] = self.actions.send[place] * FULL_RATE

    def _flow_end(self) -> int | None:
        ends = [-(-self.left[pair] // rate) for pair, rate in self.rates.items()]
        return self.now + max(min(ends), 0) if ends else None

    def _progress(self, time: int) -> None:
        for pair, rate in self.rates.items():
            self.left[pair] -= rate * (time - self.now)
        self.now = time

    def _messages_ended(self) -> None:
        ended = [pair for pair, left in self.left.items() if left <= 0]
        places = [self.queues[pair].popleft() for pair in ended]
        for pair in ended:
            del self.left[pair]
            if self.queues[pair]:
                self._send(pair)
        self.rates = fair_rates(self.actions.links, self.left)
        for place in places:
            self.sent[place] = self.now
            self._arrives(place, self.now + self.actions.latency[place])
