"""Message transport of the SimPy engine."""

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Generator, MutableSequence
from typing import Any, NamedTuple, Protocol

import simpy

from parplan.sim.step.shared_links import FULL_RATE, Pair, SharedLinks, fair_rates

Process = Generator[simpy.Event, Any, Any]

AFTER_ALL_ELSE = 2
"""A priority in SimPy's queue behind those of SimPy itself: what else happens now is first."""


class Arrival(simpy.Event):
    """The arrival of one message: an event that its sender schedules, and its receiver awaits."""

    def at(self, now: int, time: int) -> None:
        """Let it happen at `time`, its value, as SimPy's own `Timeout` does when it is made."""
        self._ok = True
        self._value = time
        self.env.schedule(self, delay=time - now)


def times(count: int) -> MutableSequence[int]:
    """A contiguous int64 array of zeros."""
    return array("q", bytes(8 * count))


def call_after(
    env: simpy.Environment, delay_ps: int, priority: int, function: Callable[[], None]
) -> None:
    """Call `function` `delay_ps` from now, behind the events of that instant of less priority."""
    event = simpy.Event(env)
    event._ok = True
    event._value = None
    event.callbacks = [lambda _: function()]
    env.schedule(event, priority=priority, delay=delay_ps)  # type: ignore[arg-type]


class LinkObserver(Protocol):
    """An observer that is told when links are in use."""

    def occupied(self, pair: Pair, start: int, end: int) -> None:
        """A message will be on the link of `pair` from `start` to `end`."""


class Links(Protocol):
    """`start` and `end`: when the message of each action entered and left its link."""

    start: MutableSequence[int]
    end: MutableSequence[int]

    def send(
        self,
        pair: Pair,
        place: int,
        now: int,
        send_ps: int,
        latency_ps: int,
        arrival: Arrival | None,
    ) -> simpy.Event:
        """Send the message of the action at `place`; it arrives `latency_ps` after it left.

        `arrival`: what its receiver waits for already. Returns that, or a new event; its value is
        the time of the arrival.
        """


class OwnLinks:
    """A link for each directed pair of ranks, which carries one message at a time.

    What stays on its rank takes no time.
    """

    def __init__(
        self, env: simpy.Environment, num_actions: int, watch: LinkObserver | None = None
    ) -> None:
        self.env = env
        self.watch = watch
        self.start = times(num_actions)
        self.end = times(num_actions)
        self._free_ps: dict[Pair, int] = {}

    def send(
        self,
        pair: Pair,
        place: int,
        now: int,
        send_ps: int,
        latency_ps: int,
        arrival: Arrival | None,
    ) -> simpy.Event:
        """Send a message, as `Links` says."""
        time = now
        if pair[0] != pair[1]:
            free = self._free_ps.get(pair, 0)
            start = self.start[place] = free if free > now else now
            end = self._free_ps[pair] = self.end[place] = start + send_ps
            time = end + latency_ps
            if self.watch is not None:
                self.watch.occupied(pair, start, end)
        if arrival is None:
            return simpy.Timeout(self.env, time - now, time)
        arrival.at(now, time)
        return arrival


class _Message(NamedTuple):
    """A message that waits for its link; compared by when it was ready and where it stands."""

    ready: int
    place: int
    send_ps: int
    latency_ps: int
    arrival: Any


class FifoLinks(OwnLinks):
    """Shared links that carry one message at a time."""

    def __init__(self, env: simpy.Environment, num_actions: int, shared: SharedLinks) -> None:
        super().__init__(env, num_actions)
        self._link_of = {pair: links[0] for pair, links in shared.links.items()}
        self._queues: list[list[_Message]] = [[] for _ in range(shared.num_links)]
        self._link_free = [0] * shared.num_links
        self._will_serve = [False] * shared.num_links

    def send(
        self,
        pair: Pair,
        place: int,
        now: int,
        send_ps: int,
        latency_ps: int,
        arrival: Arrival | None,
    ) -> simpy.Event:
        """Send a message, as `Links` says."""
        link = self._link_of.get(pair)
        if link is None:
            return super().send(pair, place, now, send_ps, latency_ps, arrival)
        arrival = arrival or Arrival(self.env)
        heapq.heappush(self._queues[link], _Message(now, place, send_ps, latency_ps, arrival))
        if not self._will_serve[link]:
            self._serve_at(link, now, max(now, self._link_free[link]))
        return arrival

    def _serve_at(self, link: int, now: int, time: int) -> None:
        self._will_serve[link] = True
        call_after(self.env, time - now, AFTER_ALL_ELSE + link, lambda: self._serve(link))

    def _serve(self, link: int) -> None:
        now, message = int(self.env.now), heapq.heappop(self._queues[link])
        end = self._link_free[link] = now + message.send_ps
        self.start[message.place], self.end[message.place] = now, end
        message.arrival.at(now, end + message.latency_ps)
        self._will_serve[link] = False
        if self._queues[link]:
            self._serve_at(link, now, end)


class FairLinks(OwnLinks):
    """Shared links that carry all their messages at once, the next ones of each pair."""

    def __init__(self, env: simpy.Environment, num_actions: int, shared: SharedLinks) -> None:
        super().__init__(env, num_actions)
        self._links = shared.links
        self._queues: dict[Pair, deque[_Message]] = {pair: deque() for pair in shared.links}
        self._left: dict[Pair, int] = {}
        """What is left of the message that each pair sends: picoseconds times `FULL_RATE`."""
        self._rates: dict[Pair, int] = {}
        self._since = 0
        self._changes = 0

    def send(
        self,
        pair: Pair,
        place: int,
        now: int,
        send_ps: int,
        latency_ps: int,
        arrival: Arrival | None,
    ) -> simpy.Event:
        """Send a message, as `Links` says."""
        if pair not in self._links:
            return super().send(pair, place, now, send_ps, latency_ps, arrival)
        arrival = arrival or Arrival(self.env)
        self._queues[pair].append(_Message(now, place, send_ps, latency_ps, arrival))
        if pair not in self._left:
            self._progress(now)
            self._begin(pair, now)
            self._change()
        return arrival

    def _begin(self, pair: Pair, now: int) -> None:
        message = self._queues[pair][0]
        self.start[message.place] = now
        self._left[pair] = message.send_ps * FULL_RATE

    def _progress(self, now: int) -> None:
        for pair, rate in self._rates.items():
            self._left[pair] -= rate * (now - self._since)
        self._since = now

    def _change(self) -> None:
        """New rates for those that send, until the first of them is done."""
        self._changes += 1
        change = self._changes
        self._rates = fair_rates(self._links, self._left)
        if self._rates:
            soonest = min(-(-self._left[pair] // rate) for pair, rate in self._rates.items())
            call_after(self.env, max(soonest, 0), AFTER_ALL_ELSE, lambda: self._end(change))

    def _end(self, change: int) -> None:
        if change != self._changes:
            return  # The rates have changed since.
        now = int(self.env.now)
        self._progress(now)
        for pair in [pair for pair, left in self._left.items() if left <= 0]:
            message = self._queues[pair].popleft()
            self.end[message.place] = now
            message.arrival.at(now, now + message.latency_ps)
            del self._left[pair]
            if self._queues[pair]:
                self._begin(pair, now)
        self._change()


def make_links(
    env: simpy.Environment, num_actions: int, shared: SharedLinks | None, watch: LinkObserver | None
) -> Links:
    """The links of one simulation; `watch` sees those that are not shared."""
    if shared is None:
        return OwnLinks(env, num_actions, watch)
    return (FifoLinks if shared.sharing == "fifo" else FairLinks)(env, num_actions, shared)
