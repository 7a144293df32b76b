"""Cluster links used by the pipeline messages of all replicas.

Each tensor- and context-parallel rank of a stage sends its part of a message to the rank at its
place in the next stage. The message has arrived when all its parts have.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import simpy

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.hardware.network.interconnect import LinkUse, links_crossed
from parplan.hardware.network.placement import Placement
from parplan.sim.cluster.cluster_layout import Slowdowns
from parplan.sim.cluster.flows import Flows, Sharing
from parplan.sim.cluster.replica_simulation import MakeLinks
from parplan.sim.engine.links import Arrival, times
from parplan.sim.programs.instructions import Schedule, rank_of_stages
from parplan.sim.step.shared_links import Pair

Routes = dict[Pair, tuple[tuple[LinkUse, ...], ...]]
"""Of one replica: by pipeline rank and pipeline rank, the links that each part crosses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLinks:
    """Messages between stages go over the links of `cluster` that they cross, and share them.

    Their sizes and links decide how long they take, in place of the `send_s` and `latency_s` of
    stages; alone on their links they take as long.
    """

    cluster: Cluster
    message_bytes: float
    """Of each part (`parplan.sim.cost_model.stage_costs.message_bytes`)."""
    sharing: Sharing = "fair"

    def __post_init__(self) -> None:
        if self.message_bytes < 0:
            raise ParplanError(f"message_bytes: must not be negative, got {self.message_bytes}")


def routes_of(
    links: ClusterLinks, placement: Placement, schedule: Schedule, replica: int
) -> Routes:
    """The routes of one replica."""
    rank_of = rank_of_stages(schedule)
    neighbours = [(rank_of[s], rank_of[s + 1]) for s in rank_of if s + 1 in rank_of]
    ways = sorted({way for a, b in neighbours if a != b for way in ((a, b), (b, a))})
    routes = {}
    for way in ways:
        parts = []
        for tensor in range(placement.size("tensor")):
            for context in range(placement.size("context")):
                at = {"tensor": tensor, "context": context, "data": replica}
                known = {axis: c for axis, c in at.items() if axis in placement.order}
                ends = [
                    placement.rank_of(
                        {**known, "pipeline": p} if "pipeline" in placement.order else known
                    )
                    for p in way
                ]
                parts.append(links_crossed(links.cluster, *ends))
        routes[way] = tuple(parts)
    return routes


def cells(routes: Sequence[Routes]) -> list[list[int]]:
    """Replicas in sets that share no link with each other; sets and members in order."""
    of_link: dict[str, int] = {}
    leader = list(range(len(routes)))

    def find(replica: int) -> int:
        while leader[replica] != replica:
            leader[replica] = leader[leader[replica]]
            replica = leader[replica]
        return replica

    for replica, own in enumerate(routes):
        for name in {use.name for parts in own.values() for part in parts for use in part}:
            a, b = find(of_link.setdefault(name, replica)), find(replica)
            leader[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for replica in range(len(routes)):
        members.setdefault(find(replica), []).append(replica)
    return list(members.values())


def cell_key(
    cell: Iterable[int], routes: Sequence[Routes], slowdowns: Sequence[Slowdowns]
) -> tuple[object, ...]:
    """Equal for sets of replicas that are alike: the same but for the names of their links."""
    numbers: dict[str, int] = {}

    def unnamed(use: LinkUse) -> tuple[int, float, float]:
        return numbers.setdefault(use.name, len(numbers)), use.bytes_per_s, use.latency_s

    return tuple(
        (
            slowdowns[replica],
            tuple(
                (way, tuple(tuple(map(unnamed, part)) for part in parts))
                for way, parts in routes[replica].items()
            ),
        )
        for replica in cell
    )


def sharing_links(links: ClusterLinks, routes: Sequence[Routes], num_ranks: int) -> MakeLinks:
    """The links of the replicas with `routes`, each of so many pipeline ranks, for a simulator."""

    def make(env: simpy.Environment, num_actions: int) -> _ReplicaLinks:
        return _ReplicaLinks(env, num_actions, links, routes, num_ranks)

    return make


class _ReplicaLinks:
    """Implementation of `parplan.sim.engine.links.Links` over links that all replicas share.

    A message enters when it is ready and leaves when its last part does.
    """

    def __init__(
        self,
        env: simpy.Environment,
        num_actions: int,
        links: ClusterLinks,
        routes: Sequence[Routes],
        num_ranks: int,
    ) -> None:
        self.env = env
        self.start = times(num_actions)
        self.end = times(num_actions)
        self._message_bytes = links.message_bytes
        self._flows = Flows(env, links.sharing)
        self._routes = {
            (replica * num_ranks + a, replica * num_ranks + b): [
                self._flows.route(part) for part in parts
            ]
            for replica, own in enumerate(routes)
            for (a, b), parts in own.items()
        }

    def send(
        self,
        pair: Pair,
        place: int,
        now: int,
        send_ps: int,
        latency_ps: int,
        arrival: Arrival | None,
    ) -> simpy.Event:
        """Send as `Links` says; the costs of the stage are not used."""
        arrival = arrival or Arrival(self.env)
        if pair[0] == pair[1]:
            arrival.at(now, now)
            return arrival
        parts = self._routes[pair]
        self.start[place], missing = now, len(parts)

        def came(time: int, lag: int) -> None:
            nonlocal missing
            missing -= 1
            self.end[place] = max(self.end[place], time - lag)
            if not missing:
                arrival.at(time, time)

        for number, route in enumerate(parts):
            part = self._flows.send(route, self._message_bytes, (pair, number), (place, number))
            part.callbacks.append(partial(_when_it_comes, came, route.latency_ps))
        return arrival


def _when_it_comes(came: Callable[[int, int], None], lag: int, event: simpy.Event) -> None:
    came(cast(int, event.value), lag)
