"""Collectives simulated message by message, one group or many at once, over shared links (SimPy).

The closed forms of `parplan.hardware.collectives.times` hold for a group that has its links for
itself. Here the messages of all groups go over the links that `links_crossed` names, so that two
groups behind one network interface slow each other down. Plain latencies and bandwidths: no launch
times, no protocols. Each step of an algorithm is rounded up to whole picoseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import simpy

from parplan.errors import ParplanError
from parplan.hardware.collectives.times import Collective
from parplan.hardware.network.cluster import Cluster
from parplan.hardware.network.interconnect import links_crossed
from parplan.sim.cluster.collective_steps import PIECES, Transfer, transfers
from parplan.sim.cluster.flows import Flows, Sharing
from parplan.sim.engine.links import call_after
from parplan.sim.ticks import PS_PER_S, to_ps


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCollective:
    """A collective of one group of ranks."""

    collective: Collective
    ranks: Sequence[int]
    """In the order of its rings; a broadcast starts at the first."""
    algorithm: str = "ring"
    start_s: float = 0.0
    pieces: int = PIECES
    """Trees and broadcasts: into how many pieces the bytes are cut."""

    def __post_init__(self) -> None:
        if not self.ranks or len(set(self.ranks)) != len(self.ranks):
            raise ParplanError(f"ranks: expected different ranks, got {list(self.ranks)[:8]}")
        if self.start_s < 0:
            raise ParplanError(f"start_s: must not be negative, got {self.start_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRun:
    """The result of a simulated collective."""

    seconds: tuple[float, ...]
    """Of each group, from its start to the last arrival."""
    link_bytes: Mapping[str, float]
    """Bytes over each link that was crossed, of all groups together."""
    num_messages: int
    num_events: int
    """Arrivals and changes of the links that SimPy handled."""


def simulate_collectives(
    cluster: Cluster, groups: Sequence[GroupCollective], sharing: Sharing = "fair"
) -> CollectiveRun:
    """Simulate the collectives of all `groups` on `cluster` at the same time.

    Raises `ParplanError` for a rank that the cluster does not have, or a collective that the
    algorithm cannot do.
    """
    env = _Counted()
    flows = Flows(env, sharing)
    processes = [
        _Simulator(env, cluster, flows, number, group) for number, group in enumerate(groups)
    ]
    env.run()
    return CollectiveRun(
        seconds=tuple(process.took_ps / PS_PER_S for process in processes),
        link_bytes=dict(zip(flows.names, flows.link_bytes, strict=True)),
        num_messages=flows.num_messages,
        num_events=env.num_events,
    )


def on_nodes(cluster: Cluster, ranks: Sequence[int]) -> list[list[int]]:
    """The ranks on each node, nodes and ranks in the order in which they are given."""
    per_node = cluster.num_accelerators // cluster.num_nodes
    nodes: dict[int, list[int]] = {}
    for rank in ranks:
        nodes.setdefault(rank // per_node, []).append(rank)
    return list(nodes.values())


class _Counted(simpy.Environment):
    """An environment that knows how many events it has handled."""

    num_events = 0

    def step(self) -> None:
        self.num_events += 1
        super().step()


class _Simulator:
    """One group: sends each message when those that it waits for have arrived."""

    def __init__(
        self,
        env: simpy.Environment,
        cluster: Cluster,
        flows: Flows,
        number: int,
        group: GroupCollective,
    ) -> None:
        self.env, self.flows, self.number = env, flows, number
        nodes = on_nodes(cluster, group.ranks)
        cluster.tier_of(list(group.ranks))
        self.sent: list[Transfer] = transfers(
            group.collective, group.algorithm, nodes, group.pieces
        )
        pairs = {(transfer.source, transfer.destination) for transfer in self.sent}
        self.routes = {pair: flows.route(links_crossed(cluster, *pair)) for pair in sorted(pairs)}
        self.missing = [len(transfer.after) for transfer in self.sent]
        self.waiting: list[list[int]] = [[] for _ in self.sent]
        for place, transfer in enumerate(self.sent):
            for other in transfer.after:
                self.waiting[other].append(place)
        self.start_ps = to_ps(group.start_s)
        self.took_ps = 0
        call_after(env, self.start_ps, 1, self._start)

    def _start(self) -> None:
        for place, transfer in enumerate(self.sent):
            if not transfer.after:
                self._send(place)

    def _send(self, place: int) -> None:
        transfer = self.sent[place]
        route = self.routes[transfer.source, transfer.destination]
        channel = self.number, transfer.source, transfer.destination, transfer.channel
        arrival = self.flows.send(route, transfer.num_bytes, channel, (self.number, place))
        arrival.callbacks.append(lambda _: self._arrived(place))

    def _arrived(self, place: int) -> None:
        self.took_ps = int(self.env.now) - self.start_ps
        for other in self.waiting[place]:
            self.missing[other] -= 1
            if not self.missing[other]:
                self._send(other)
