"""The tables of the preset files, as they are written there, and what they make."""

from dataclasses import dataclass

from parplan.hardware.accelerator import Accelerator, DenseRates
from parplan.hardware.cluster import Cluster, Link, Tier
from parplan.hardware.errors import ParplanError
from parplan.hardware.kernel_efficiency import kernel_efficiency

GB = 10**9
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesTable:
    """Where the values of an accelerator come from."""

    rates: str
    memory: str
    link: str
    efficiency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorTable:
    """`[NAME]` of accelerators.toml."""

    title: str
    family: str
    node: str
    num_processors: int
    dense_tflop_per_s: DenseRates
    memory_gb: float
    usable_memory_mib: float
    hbm_gb_per_s: float
    link: str
    link_gb_per_s_per_direction: float
    pcie_gb_per_s_per_direction: float
    gemm_efficiency: float
    hbm_efficiency: float
    kernel_launch_us: float
    sources: SourcesTable
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TierTable:
    """`[[node.NAME.inside]]`: accelerators that reach each other without the network."""

    name: str
    fabric: str
    link_gb_per_s_per_direction: float
    latency_us: float
    efficiency: float
    source: str
    peer_gb_per_s_per_direction: float | None = None
    size: int | None = None
    """How many accelerators; all of the node where not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTable:
    """`[[node.NAME.network]]`: what the nodes are joined by."""

    name: str
    fabric: str
    nics_per_node: int
    nic_gb_per_s_per_direction: float
    latency_us: float
    efficiency: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTable:
    """`[node.NAME]` of clusters.toml."""

    title: str
    accelerator: str
    accelerators: int
    network: tuple[NetworkTable, ...]
    source: str
    inside: tuple[TierTable, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTable:
    """`[cluster.NAME]` of clusters.toml."""

    title: str
    node: str
    num_nodes: int
    source: str
    accelerators_used: int | None = None
    """How many of the nodes' accelerators a job is given; all where not given."""


def accelerator_of(name: str, table: AcceleratorTable) -> Accelerator:
    """The accelerator of a table, in SI units."""
    dense = table.dense_tflop_per_s
    rates = {d: getattr(dense, d) for d in DenseRates.__dataclass_fields__}
    return Accelerator(
        name=name,
        peak_flop_per_s=DenseRates(**{d: r * 1e12 for d, r in rates.items() if r is not None}),
        memory_bytes=round(table.usable_memory_mib * MIB),
        hbm_bytes_per_s=table.hbm_gb_per_s * GB,
        gemm_efficiency=table.gemm_efficiency,
        hbm_efficiency=table.hbm_efficiency,
        kernel_launch_s=table.kernel_launch_us * 1e-6,
        num_processors=table.num_processors,
        kernels=kernel_efficiency(name, table.family),
    )


def cluster_of(
    name: str, node: NodeTable, accelerator: Accelerator, num_nodes: int, devices: int
) -> Cluster:
    """`devices` accelerators spread evenly over `num_nodes` nodes.

    Raises `ParplanError` when they can't be.
    """
    per_node = devices // num_nodes
    if devices % num_nodes or per_node > node.accelerators:
        raise ParplanError(
            f"cluster {name!r}: {devices} accelerators cannot be spread evenly over "
            f"{num_nodes} nodes of {node.accelerators}"
        )
    tiers = [_inside(tier, per_node) for tier in node.inside]
    tiers = [t for i, t in enumerate(tiers) if i == len(tiers) - 1 or t.size < per_node]
    if num_nodes > 1 or not tiers:
        tiers.append(_network(node, devices))
    return Cluster(name=name, accelerator=accelerator, tiers=tuple(tiers), num_nodes=num_nodes)


def _inside(table: TierTable, per_node: int) -> Tier:
    link = Link(
        latency_s=table.latency_us * 1e-6,
        bytes_per_s=table.link_gb_per_s_per_direction * GB * table.efficiency,
    )
    return Tier(name=table.name, size=min(table.size or per_node, per_node), link=link)


def _network(node: NodeTable, devices: int) -> Tier:
    """Each accelerator has its even share of the node's interfaces."""
    (table,) = node.network
    share = table.nics_per_node / node.accelerators
    link = Link(
        latency_s=table.latency_us * 1e-6,
        bytes_per_s=share * table.nic_gb_per_s_per_direction * GB * table.efficiency,
    )
    return Tier(name=table.name, size=devices, link=link)
