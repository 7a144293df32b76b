"""Routes of messages over named links that several groups can share.

A link has one direction. `node 3 nic 1 out` is used by every message that leaves node 3 through
its second network interface, whichever group sends it, so a simulator can let them slow each
other down. Capacities are what long messages reach, as `Link.bytes_per_s` is.

- Ports (nvswitch, die, bridge, shared memory): the sender's port out, the receiver's port in.
- Meshes: the links of the pair. A pair without a link goes through a neighbour of both.
- PCIe: the cards' ports, and between switches the one uplink that the cards of a switch share.
- Networks: the interfaces of both ends, and the uplinks of the leaf switches unless both ends hang
  on the same one. In a rail-optimised tree a leaf joins the interfaces of one index of all nodes;
  in the other networks it joins the nodes beside each other. Uplinks are thinner than what hangs on
  them by `oversubscription`; a dragonfly is modelled as such a tapered tree, with its groups as
  leaves.
- Tori: one link per hop, dimension by dimension, the shorter way round.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster, Tier
from parplan.hardware.network.fabric import MESH_FABRICS, NETWORK_FABRICS, Fabric


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUse:
    """One direction of one link, as a message sees it."""

    name: str
    bytes_per_s: float
    """What all messages that cross it at the same time share."""
    latency_s: float


def links_crossed(cluster: Cluster, source: int, destination: int) -> tuple[LinkUse, ...]:
    """The links from rank `source` to rank `destination`, in order; none from a rank to itself.

    Raises `ParplanError` for a rank that the cluster does not have.
    """
    tier = cluster.tier_of((source, destination))
    if source == destination:
        return ()
    fabric = tier.fabric
    if fabric is None:
        return tuple(_ports(tier, source, destination))
    if fabric.kind in NETWORK_FABRICS:
        return tuple(_network(cluster, tier, fabric, source, destination))
    if fabric.kind in MESH_FABRICS and fabric.peer_bytes_per_s is not None:
        return tuple(_mesh(tier, fabric, source, destination))
    if fabric.kind == "pcie":
        return tuple(_pcie(cluster, tier, source, destination))
    if fabric.kind == "torus" and fabric.dims:
        return tuple(_torus(tier, fabric, source, destination))
    return tuple(_ports(tier, source, destination))


def message_s(cluster: Cluster, source: int, destination: int, num_bytes: float) -> float:
    """Seconds of a message that has all its links for itself: latencies, then the thinnest link."""
    if num_bytes < 0:
        raise ParplanError(f"num_bytes: must not be negative, got {num_bytes}")
    links = links_crossed(cluster, source, destination)
    if not links:
        return 0.0
    thinnest = min(link.bytes_per_s for link in links)
    return sum(link.latency_s for link in links) + num_bytes / thinnest


def _efficiency(tier: Tier, fabric: Fabric) -> float:
    """The share of the data sheet's bandwidth that long messages reach."""
    return tier.link.bytes_per_s / fabric.nominal_bytes_per_s


def _place(tier: Tier, rank: int) -> str:
    return f"{tier.name} {rank // tier.size} accelerator {rank % tier.size}"


def _ports(tier: Tier, source: int, destination: int) -> Iterator[LinkUse]:
    for rank, way in ((source, "out"), (destination, "in")):
        yield LinkUse(
            name=f"{_place(tier, rank)} port {way}",
            bytes_per_s=tier.link.bytes_per_s,
            latency_s=tier.link.latency_s / 2,
        )


def _mesh(tier: Tier, fabric: Fabric, source: int, destination: int) -> Iterator[LinkUse]:
    assert fabric.peer_bytes_per_s is not None
    peer = fabric.peer_bytes_per_s * _efficiency(tier, fabric)
    unit, a, b = source // tier.size, source % tier.size, destination % tier.size
    for i, j, count in _mesh_route(fabric.peer_links, a, b):
        yield LinkUse(
            name=f"{tier.name} {unit} link {i} to {j}",
            bytes_per_s=min(peer * count, tier.link.bytes_per_s),
            latency_s=tier.link.latency_s,
        )


def _mesh_route(links: tuple[tuple[int, ...], ...], a: int, b: int) -> list[tuple[int, int, int]]:
    """The pairs that are crossed from place `a` to place `b`, with their numbers of links."""
    if max(a, b) >= len(links):
        return [(a, b, 1)]
    if links[a][b]:
        return [(a, b, links[a][b])]
    between = max(range(len(links)), key=lambda k: (min(links[a][k], links[k][b]), -k))
    if not links[a][between] or not links[between][b]:
        raise ParplanError(f"peer_links: places {a} and {b} have no neighbour in common")
    return [(a, between, links[a][between]), (between, b, links[between][b])]


def _pcie(cluster: Cluster, tier: Tier, source: int, destination: int) -> Iterator[LinkUse]:
    """Cards sit on the innermost PCIe tier; an outer one joins its switches by their uplinks."""
    switch = next(t for t in cluster.tiers if t.fabric is not None and t.fabric.kind == "pcie")
    uplinks = [] if switch is tier else [(source, "out"), (destination, "in")]
    crossed = [
        (f"{_place(switch, source)} port out", switch),
        *((f"{switch.name} {rank // switch.size} uplink {way}", tier) for rank, way in uplinks),
        (f"{_place(switch, destination)} port in", switch),
    ]
    for name, owner in crossed:
        yield LinkUse(
            name=name,
            bytes_per_s=owner.link.bytes_per_s,
            latency_s=tier.link.latency_s / len(crossed),
        )


def _network(
    cluster: Cluster, tier: Tier, fabric: Fabric, source: int, destination: int
) -> Iterator[LinkUse]:
    per_node = cluster.num_accelerators // cluster.num_nodes
    ends = [
        (r // per_node, _interface(fabric, r % per_node, per_node)) for r in (source, destination)
    ]
    nic = tier.link.bytes_per_s * per_node / _interfaces(fabric, per_node)
    leaves = [_leaf(fabric, node, interface) for node, interface in ends]
    names = [f"node {ends[0][0]} nic {ends[0][1]} out"]
    if leaves[0] != leaves[1]:
        names += [f"{leaves[0]} uplinks out", f"{leaves[1]} uplinks in"]
    names.append(f"node {ends[1][0]} nic {ends[1][1]} in")
    below = cluster.num_nodes * nic
    if fabric.kind != "rail-fat-tree":
        below = min(fabric.nodes_per_switch, cluster.num_nodes) * per_node * tier.link.bytes_per_s
    for name in names:
        capacity = below / fabric.oversubscription if "uplinks" in name else nic
        yield LinkUse(name=name, bytes_per_s=capacity, latency_s=tier.link.latency_s / len(names))


def _interfaces(fabric: Fabric, per_node: int) -> int:
    """Interfaces of a node as they are counted here: those of one accelerator are one."""
    return min(max(1, fabric.nics_per_node), per_node)


def _interface(fabric: Fabric, place: int, per_node: int) -> int:
    """The interface of a node's accelerator: its own, or one that it shares with neighbours."""
    return place * _interfaces(fabric, per_node) // per_node


def _leaf(fabric: Fabric, node: int, interface: int) -> str:
    if fabric.kind == "rail-fat-tree":
        return f"rail {interface}"
    word = "group" if fabric.kind == "dragonfly" else "leaf"
    return f"{word} {node // fabric.nodes_per_switch}"


def _torus(tier: Tier, fabric: Fabric, source: int, destination: int) -> Iterator[LinkUse]:
    unit = source // tier.size
    here = _coordinates(source % tier.size, fabric.dims)
    there = _coordinates(destination % tier.size, fabric.dims)
    capacity = tier.link.bytes_per_s / (2 * len(fabric.dims))
    for axis, size in enumerate(fabric.dims):
        ahead = (there[axis] - here[axis]) % size
        step = 1 if ahead <= size - ahead else -1
        while here[axis] != there[axis]:
            place = ",".join(map(str, here))
            sign = "+" if step > 0 else "-"
            yield LinkUse(
                name=f"{tier.name} {unit} link {place} {sign}{axis}",
                bytes_per_s=capacity,
                latency_s=tier.link.latency_s,
            )
            here[axis] = (here[axis] + step) % size


def _coordinates(place: int, dims: tuple[int, ...]) -> list[int]:
    coordinates = []
    for size in dims:
        place, coordinate = divmod(place, size)
        coordinates.append(coordinate)
    return coordinates
