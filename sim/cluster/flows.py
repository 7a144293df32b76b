"""Messages over the links that they cross, in SimPy: first come, first served, or fairly shared.

`parplan.hardware.network.interconnect.links_crossed` names the links between two ranks; messages
that cross the same one slow each other down. A message goes over all its links at once, as fast as
the thinnest of them lets it, and arrives the sum of their latencies after it has left.

fifo: a link carries one message at a time. A message waits until it is first in the queue of every
link that it crosses, and holds them all until it has left. A queue is in the order in which its
messages were ready; those that were ready at the same instant in the order that the senders give.
A link is idle while its first message waits for another link: where ranks talk to several others at
once, as in trees, this is slower than sharing fairly.

fair: all messages on a link share it, max-min fairly over all links of all messages (Bertsekas and
Gallager, Data Networks, 1992, section 6.5.2). The messages of one channel go one after the other.

Time is counted in whole picoseconds, what is left of a message in whole parts of a byte: a message
takes its bytes over its bandwidth, rounded up to the next picosecond.
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import simpy

from parplan.errors import ParplanError
from parplan.hardware.network.interconnect import LinkUse
from parplan.sim.engine.links import AFTER_ALL_ELSE, Arrival, call_after
from parplan.sim.ticks import PS_PER_S, to_ps

Sharing = Literal["fifo", "fair"]

PARTS = 2**20
"""Rates are whole parts of a byte per second, so many in one."""


class Route(NamedTuple):
    """The way of a message: its links by number, and how long after it has left it arrives."""

    number: int
    links: tuple[int, ...]
    latency_ps: int


class _Message:
    """A message on its way."""

    __slots__ = ("arrival", "channel", "first_on", "left", "order", "route")

    def __init__(
        self, route: Route, left: int, channel: Hashable, order: tuple[int, ...], arrival: Arrival
    ) -> None:
        self.route = route
        self.left = left
        """Bytes times `PARTS` times picoseconds in a second."""
        self.channel = channel
        self.order = order
        self.arrival = arrival
        self.first_on = 0
        """fifo: in how many queues it is first."""


class Flows:
    """The links of one simulation, and the messages on them."""

    def __init__(self, env: simpy.Environment, sharing: Sharing = "fair") -> None:
        if sharing not in ("fifo", "fair"):
            raise ParplanError(f"sharing: {sharing!r} is not one of fifo, fair")
        self.env = env
        self.sharing = sharing
        self.names: list[str] = []
        self.link_bytes: list[float] = []
        """What each link has been asked to carry."""
        self.num_messages = 0
        self._capacities: list[int] = []
        self._numbers: dict[str, int] = {}
        self._routes: dict[tuple[LinkUse, ...], Route] = {}
        self._by_number: list[Route] = []
        self._ready: list[_Message] = []
        self._queues: list[deque[_Message]] = []
        self._channels: dict[Hashable, deque[_Message]] = {}
        self._going: dict[Hashable, _Message] = {}
        self._rates: dict[int, int] = {}
        self._known_rates: dict[frozenset[tuple[int, int]], dict[int, int]] = {}
        self._since = 0
        self._turn = 0
        self._next_turn_ps = -1

    def route(self, links: Iterable[LinkUse]) -> Route:
        """The route over `links`, to be used for all messages that cross them.

        Raises `ParplanError` for a link whose name is known with another bandwidth.
        """
        crossed = tuple(links)
        if crossed not in self._routes:
            numbers = tuple(dict.fromkeys(self._link(link) for link in crossed))
            latency = to_ps(sum(link.latency_s for link in crossed))
            route = Route(len(self._by_number), numbers, latency)
            self._routes[crossed] = route
            self._by_number.append(route)
        return self._routes[crossed]

    def _link(self, link: LinkUse) -> int:
        capacity = round(link.bytes_per_s * PARTS)
        number = self._numbers.setdefault(link.name, len(self.names))
        if number == len(self.names):
            self.names.append(link.name)
            self.link_bytes.append(0.0)
            self._capacities.append(capacity)
            self._queues.append(deque())
        if capacity != self._capacities[number] or capacity < 1:
            known = self._capacities[number] / PARTS
            raise ParplanError(f"{link.name}: {link.bytes_per_s} bytes per s, not {known}")
        return number

    def send(
        self, route: Route, num_bytes: float, channel: Hashable, order: tuple[int, ...]
    ) -> Arrival:
        """Send a message that is ready now; returns its arrival, whose value is its time.

        `order`: of the messages that are ready at the same instant, all different. `channel`: a
        sender's way to a receiver.
        """
        now, arrival = int(self.env.now), Arrival(self.env)
        self.num_messages += 1
        if not route.links:
            arrival.at(now, now + route.latency_ps)
            return arrival
        for link in route.links:
            self.link_bytes[link] += num_bytes
        left = round(num_bytes * PS_PER_S) * PARTS
        self._ready.append(_Message(route, left, channel, order, arrival))
        if self._next_turn_ps != now:
            self._take_turn_at(now, now)
        return arrival

    def _take_turn_at(self, now: int, time: int) -> None:
        """Look after the links at `time`, when all else of that instant has happened."""
        self._turn += 1
        turn, self._next_turn_ps = self._turn, time
        call_after(self.env, time - now, AFTER_ALL_ELSE, lambda: self._take_turn(turn))

    def _take_turn(self, turn: int) -> None:
        if turn != self._turn:
            return  # Another turn came before this one.
        self._next_turn_ps = -1
        ready, self._ready = sorted(self._ready, key=lambda message: message.order), []
        if self.sharing == "fifo":
            for message in ready:
                self._queue(message)
        else:
            self._share(ready)

    # First come, first served.

    def _queue(self, message: _Message) -> None:
        for link in message.route.links:
            self._queues[link].append(message)
            if self._queues[link][0] is message:
                self._is_first(message)

    def _is_first(self, message: _Message) -> None:
        message.first_on += 1
        if message.first_on == len(message.route.links):
            thinnest = min(self._capacities[link] for link in message.route.links)
            takes = -(-message.left // thinnest)
            call_after(self.env, takes, 1, lambda: self._has_left(message))

    def _has_left(self, message: _Message) -> None:
        now = int(self.env.now)
        message.arrival.at(now, now + message.route.latency_ps)
        for link in message.route.links:
            self._queues[link].popleft()
            if self._queues[link]:
                self._is_first(self._queues[link][0])

    # Fairly.

    def _share(self, ready: Sequence[_Message]) -> None:
        now = int(self.env.now)
        for message in self._going.values():
            message.left -= self._rates[message.route.number] * (now - self._since)
        self._since = now
        ended = [message for message in self._going.values() if message.left <= 0]
        for message in ended:
            message.arrival.at(now, now + message.route.latency_ps)
            del self._going[message.channel]
            waiting = self._channels[message.channel]
            if waiting:
                self._going[message.channel] = waiting.popleft()
        for message in ready:
            if message.channel in self._going:
                self._channels[message.channel].append(message)
            else:
                self._channels.setdefault(message.channel, deque())
                self._going[message.channel] = message
        if not self._going:
            return
        self._rates = self._fair_rates()
        soonest = min(-(-m.left // self._rates[m.route.number]) for m in self._going.values())
        self._take_turn_at(now, now + max(soonest, 0))

    def _fair_rates(self) -> dict[int, int]:
        """Fair rates by number of route, computed once for each set of concurrent messages."""
        counts = Counter(message.route.number for message in self._going.values())
        key = frozenset(counts.items())
        if key not in self._known_rates:
            links = {number: self._by_number[number].links for number in counts}
            self._known_rates[key] = max_min_rates(links, counts, self._capacities)
        return self._known_rates[key]


def max_min_rates(
    links: Mapping[int, Sequence[int]], counts: Mapping[int, int], capacities: Sequence[int]
) -> dict[int, int]:
    """The max-min fair rate of the messages on each route, in whole numbers, at least one.

    `links` of each route, all different; `counts`: messages on each; `capacities` of the links, in
    the unit of the rates. Progressive filling: the links that leave least to each of their messages
    decide the rates of these, then the others share what is left; shares are rounded down.
    """
    rates: dict[int, int] = {}
    crossing: dict[int, list[int]] = {}
    for route, crossed in links.items():
        for link in crossed:
            crossing.setdefault(link, []).append(route)
    left = {link: capacities[link] for link in crossing}
    messages = {link: sum(counts[r] for r in routes) for link, routes in crossing.items()}
    while messages:
        shares = {link: left[link] // count for link, count in messages.items()}
        least = min(shares.values())
        tightest = [link for link, share in shares.items() if share == least]
        for route in {r for link in tightest for r in crossing[link] if r not in rates}:
            rates[route] = max(least, 1)
            for link in links[route]:
                left[link] -= least * counts[route]
                messages[link] -= counts[route]
        messages = {link: count for link, count in messages.items() if count}
    return rates
