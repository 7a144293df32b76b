"""Communication groups: number of ranks and nodes, and the links between them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster, Tier
from parplan.hardware.network.collective_efficiency import PLAIN, CollectiveEfficiency
from parplan.hardware.network.fabric import MESH_FABRICS, NETWORK_FABRICS
from parplan.hardware.network.rings import num_rings


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLink:
    """The links of one kind that a group uses, all of them together."""

    latency_s: float
    bytes_per_s: float
    """Per direction. Inside a node: per rank, as rings use it. Across: per node."""
    tree_bytes_per_s: float | None = None
    """The same as trees use it, where that differs."""
    efficiency: CollectiveEfficiency = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`num_ranks` ranks, evenly on `num_nodes` nodes."""

    num_ranks: int
    num_nodes: int = 1
    inside: GroupLink | None = None
    """None where every node holds one rank."""
    across: GroupLink | None = None
    """None within one node."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_nodes <= self.num_ranks:
            raise ParplanError(f"{self.num_ranks} ranks cannot be in {self.num_nodes} nodes")
        if self.inside is None and self.num_ranks > self.num_nodes:
            raise ParplanError("inside: needed where nodes hold several ranks")
        if self.across is None and self.num_nodes > 1:
            raise ParplanError("across: needed for several nodes")


def group_of(cluster: Cluster, ranks: Sequence[int]) -> Group:
    """Describe how `ranks` of `cluster` are connected while all other ranks use their links too."""
    if not ranks or (not isinstance(ranks, range) and len(set(ranks)) != len(ranks)):
        raise ParplanError(f"ranks: expected different ranks, got {list(ranks)[:8]}")
    low, high = _ends(ranks)
    cluster.tier_of((low, high))
    per_node = cluster.num_accelerators // cluster.num_nodes
    num_nodes, first = _nodes(ranks, per_node)
    inside, unit = None, 1
    for tier in cluster.tiers:
        if is_network(cluster, tier):
            break
        if _crossed(first, unit, tier):
            inside = _inside(first, unit, tier, inside)
        unit = tier.size
    if inside is None and num_nodes < len(ranks):
        # Nothing but the network joins the ranks of a node.
        num_nodes = len(ranks)
    across = _across(cluster, ranks, max(1, len(ranks) // num_nodes)) if num_nodes > 1 else None
    return Group(num_ranks=len(ranks), num_nodes=num_nodes, inside=inside, across=across)


def _nodes(ranks: Sequence[int], per_node: int) -> tuple[int, Sequence[int]]:
    """Return the number of nodes that hold `ranks`, and the largest number of ranks on one node."""
    if isinstance(ranks, range) and ranks.step > 0 and ranks[0] % per_node == 0:
        # Evenly spaced ranks, as planners ask for by the thousand: no need to look at each.
        last = (ranks[-1] - ranks[0]) // per_node
        num_nodes = min(len(ranks), last + 1)
        return num_nodes, ranks[: max(1, -(-per_node // ranks.step))]
    nodes = Counter(rank // per_node for rank in ranks)
    (busiest, _) = nodes.most_common(1)[0]
    return len(nodes), [rank for rank in ranks if rank // per_node == busiest]


def _ends(ranks: Sequence[int]) -> tuple[int, int]:
    if isinstance(ranks, range) and ranks.step > 0:
        return ranks[0], ranks[-1]
    return min(ranks), max(ranks)


def is_network(cluster: Cluster, tier: Tier) -> bool:
    """Whether `tier` joins nodes, not the accelerators of one."""
    if tier.fabric is not None and tier.fabric.kind in NETWORK_FABRICS:
        return True
    return tier.size > cluster.num_accelerators // cluster.num_nodes


def _crossed(ranks: Sequence[int], unit: int, tier: Tier) -> bool:
    """Whether some `unit`s of the same place of `tier` both hold members."""
    units = {rank // unit for rank in ranks}
    return len(units) > len({unit_ * unit // tier.size for unit_ in units})


def _inside(ranks: Sequence[int], unit: int, tier: Tier, inner: GroupLink | None) -> GroupLink:
    members = min(Counter(rank // unit for rank in ranks).values())
    first = [rank for rank in ranks if rank // tier.size == ranks[0] // tier.size]
    ring, tree = _mesh_bandwidths(first, unit, tier)
    limit = inner.bytes_per_s if inner else float("inf")
    return GroupLink(
        latency_s=tier.link.latency_s,
        bytes_per_s=min(limit, members * ring) if ring else 0.0,
        tree_bytes_per_s=None if tree is None else min(limit, members * tree),
        efficiency=tier.collectives or PLAIN,
    )


def _mesh_bandwidths(ranks: Sequence[int], unit: int, tier: Tier) -> tuple[float, float | None]:
    """Bandwidths of rings and trees over `ranks` on a tier, per member of a unit.

    A full mesh of k units splits into k - 1 rings. On a partial one the rings are counted, and a
    tree is taken to have two links per rank; two ranks alone have those of their pair.
    """
    link, fabric = tier.link.bytes_per_s, tier.fabric
    if fabric is None or fabric.kind not in MESH_FABRICS or fabric.peer_bytes_per_s is None:
        return link, None
    peer = fabric.peer_bytes_per_s * link / fabric.nominal_bytes_per_s
    units = {rank // unit for rank in ranks}
    if not fabric.peer_links:
        return min(link, peer * (len(units) - 1)), None
    rings = num_rings(fabric.peer_links, sorted(rank % tier.size for rank in ranks))
    edges = 2 if len(units) > 2 else max(1, rings)
    return min(link, peer * rings), min(link, peer * edges)


def _across(cluster: Cluster, ranks: Sequence[int], members: int) -> GroupLink:
    """The network tiers that are crossed: the thinnest one's bandwidth, the last one's latency."""
    bytes_per_s, crossed = float("inf"), cluster.tiers[-1]
    low, high = _ends(ranks)
    per_node = cluster.num_accelerators // cluster.num_nodes
    for tier in cluster.tiers:
        if not is_network(cluster, tier):
            continue
        crossed, share = tier, tier.link.bytes_per_s
        fabric = tier.fabric
        if fabric is not None and fabric.kind != "rail-fat-tree":
            leaf = per_node * fabric.nodes_per_switch
            share /= fabric.oversubscription if low // leaf != high // leaf else 1.0
        bytes_per_s = min(bytes_per_s, share * members)
        if low // tier.size == high // tier.size:
            break
    return GroupLink(
        latency_s=crossed.link.latency_s,
        bytes_per_s=bytes_per_s,
        efficiency=crossed.collectives or PLAIN,
    )
