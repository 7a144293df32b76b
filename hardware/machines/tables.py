"""Schema of the preset files and its conversion to clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from parplan._strict import check_within
from parplan.errors import ParplanError
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.kernels.efficiency import kernel_efficiency
from parplan.hardware.kernels.memory_efficiency import memory_efficiency
from parplan.hardware.network.cluster import Cluster, Link, Tier
from parplan.hardware.network.collective_efficiency import (
    EfficiencyTable,
    efficiency_of,
    read_efficiencies,
)
from parplan.hardware.network.fabric import Fabric, torus_dims

GB = 10**9
MIB = 2**20

SYNCHRONOUS_ATTENTION_SHARE = {"nvidia-hopper": 0.35}
"""By family. FlashAttention-2 reaches 35 % of an H100's peak: Shah et al. 2024 (FlashAttention-3,
arXiv:2407.08608), abstract."""


MOST = 10**7
"""Accelerators, nodes: as many as the names of clusters can say."""

RATE, TIME, SHARE = (1e-9, 1e12), (0.0, 1e9), (1e-9, 1.0)
"""The least and the most of rates, times and shares, in the units of their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesTable:
    """Sources of the values of an accelerator."""

    rates: str
    memory: str
    link: str
    efficiency: str
    power: str | None = None


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
    board_power_w: float | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rates = ("hbm", "link", "pcie")
        keys = {k: RATE for k in self.__dataclass_fields__ if k.startswith(rates) and "gb_per" in k}
        sizes = dict.fromkeys(("memory_gb", "usable_memory_mib", "board_power_w"), RATE)
        shares = dict.fromkeys(("gemm_efficiency", "hbm_efficiency"), SHARE)
        others = {"num_processors": (1, MOST), "kernel_launch_us": TIME}
        check_within(self, {**keys, **sizes, **shares, **others})
        check_within(self.dense_tflop_per_s, dict.fromkeys(DenseRates.__dataclass_fields__, RATE))


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
    peer_links: tuple[tuple[int, ...], ...] = ()
    """Partial meshes: links between places i and j; one between all where not given."""
    dims: tuple[int, ...] = ()
    """Tori: accelerators along each dimension; as even as can be where not given."""
    efficiency_class: str | None = None
    """A class of collective_efficiency.toml; that of the fabric where not given."""

    def __post_init__(self) -> None:
        rates = dict.fromkeys(("link_gb_per_s_per_direction", "peer_gb_per_s_per_direction"), RATE)
        sizes = {"size": (1, MOST), "dims": (1, MOST)}
        check_within(self, {**rates, **sizes, "latency_us": TIME, "efficiency": SHARE})


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
    oversubscription: float = 1.0
    """Bandwidth into the leaf switches over the bandwidth out of them."""
    nodes_per_switch: int = 1
    efficiency_class: str | None = None
    """A class of collective_efficiency.toml; that of the fabric where not given."""

    def __post_init__(self) -> None:
        sizes = {"nics_per_node": (1, MOST), "nodes_per_switch": (1, MOST)}
        shares = {"efficiency": SHARE, "oversubscription": (1.0, 1e9)}
        rate = {"nic_gb_per_s_per_direction": RATE}
        check_within(self, {**sizes, **shares, **rate, "latency_us": TIME})


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

    def __post_init__(self) -> None:
        if not 1 <= self.accelerators <= MOST:
            raise ParplanError(f"accelerators: 1 to {MOST}, got {self.accelerators}")
        if len(self.network) != 1:
            raise ParplanError(f"network: exactly one is needed, got {len(self.network)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTable:
    """`[cluster.NAME]` of clusters.toml."""

    title: str
    node: str
    num_nodes: int
    source: str
    accelerators_used: int | None = None
    """How many of the nodes' accelerators a job is given; all where not given."""

    def __post_init__(self) -> None:
        for name in ("num_nodes", "accelerators_used"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise ParplanError(f"{name}: 1 to {MOST}, got {value}")


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
        host_bytes_per_s=table.pcie_gb_per_s_per_direction * GB,
        synchronous_attention_share=SYNCHRONOUS_ATTENTION_SHARE.get(table.family, 1.0),
        kernels=kernel_efficiency(name, table.family),
        memory=memory_efficiency(table.family),
        board_power_w=table.board_power_w,
    )


def _near(devices: int, per_node: int) -> str:
    """The next numbers of devices, below and above, that as few nodes as possible have evenly."""
    even = [n for n in range(1, 2 * devices + per_node) if n % -(-n // per_node) == 0]
    below, above = [n for n in even if n < devices], [n for n in even if n > devices]
    return " or ".join(str(n) for n in (*below[-1:], *above[:1]))


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
            f"{num_nodes} nodes of {node.accelerators}; {_near(devices, node.accelerators)} can"
        )
    classes = read_efficiencies()
    tiers = [_inside(tier, per_node, classes) for tier in node.inside]
    tiers = [t for i, t in enumerate(tiers) if i == len(tiers) - 1 or t.size < per_node]
    if num_nodes > 1 or not tiers:
        tiers.append(_network(node, devices, classes))
    return Cluster(name=name, accelerator=accelerator, tiers=tuple(tiers), num_nodes=num_nodes)


def _inside(table: TierTable, per_node: int, classes: Mapping[str, EfficiencyTable]) -> Tier:
    nominal = table.link_gb_per_s_per_direction * GB
    link = Link(latency_s=table.latency_us * 1e-6, bytes_per_s=nominal * table.efficiency)
    size = min(table.size or per_node, per_node)
    peer = table.peer_gb_per_s_per_direction
    fabric = Fabric(
        kind=table.fabric,
        nominal_bytes_per_s=nominal,
        peer_bytes_per_s=None if peer is None else peer * GB,
        peer_links=table.peer_links,
        dims=_dims(table, size) if table.fabric == "torus" else (),
        efficiency_class=table.efficiency_class,
    )
    efficiency = efficiency_of(fabric, classes)
    return Tier(name=table.name, size=size, link=link, fabric=fabric, collectives=efficiency)


def _dims(table: TierTable, size: int) -> tuple[int, ...]:
    """The dimensions of a torus, of which a smaller job gets an even part."""
    if prod(table.dims) == size and table.dims:
        return table.dims
    peer = table.peer_gb_per_s_per_direction or table.link_gb_per_s_per_direction / 3
    ways = table.link_gb_per_s_per_direction / peer
    # More dimensions than halvings of it would all be 1.
    return torus_dims(size, len(table.dims) or max(1, round(min(ways, size.bit_length()))))


def _network(node: NodeTable, devices: int, classes: Mapping[str, EfficiencyTable]) -> Tier:
    """Each accelerator has its even share of the node's interfaces."""
    (table,) = node.network
    nominal = table.nics_per_node / node.accelerators * table.nic_gb_per_s_per_direction * GB
    link = Link(latency_s=table.latency_us * 1e-6, bytes_per_s=nominal * table.efficiency)
    fabric = Fabric(
        kind=table.fabric,
        nominal_bytes_per_s=nominal,
        nics_per_node=table.nics_per_node,
        oversubscription=table.oversubscription,
        nodes_per_switch=table.nodes_per_switch,
        efficiency_class=table.efficiency_class,
    )
    efficiency = efficiency_of(fabric, classes)
    return Tier(name=table.name, size=devices, link=link, fabric=fabric, collectives=efficiency)
