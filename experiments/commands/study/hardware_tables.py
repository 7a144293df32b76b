"""Accelerators and clusters as rows of a table: a label and a value."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.machines.presets import (
    accelerator_names,
    accelerator_table,
    cluster_names,
    cluster_preset,
    preset_aliases,
    read_cluster,
)
from parplan.hardware.machines.tables import AcceleratorTable
from parplan.hardware.network.cluster import Cluster, Tier
from parplan.hardware.network.collective_efficiency import class_of, read_efficiencies
from parplan.hardware.network.fabric import NETWORK_FABRICS, Fabric

GB = 1e9

Row = tuple[str, str]


def hardware_named(name: str) -> AcceleratorTable | Cluster:
    """The accelerator or the cluster `name`, or the cluster of a file NAME.toml.

    Raises `ParplanError` that suggests near names.
    """
    if name.endswith(".toml"):
        return read_cluster(Path(name))
    try:
        return accelerator_table(name)
    except ParplanError:
        pass
    try:
        return cluster_preset(name)
    except ParplanError:
        if re.match(r"\d+x", name):
            raise
    raise unknown_name("hardware", name, _every_name())


def _every_name() -> list[str]:
    aliases = [alias for names in preset_aliases().values() for alias in names]
    return [*accelerator_names(), *cluster_names(), *aliases]


def rows_of(hardware: AcceleratorTable | Cluster) -> list[Row]:
    """All values that two of a kind can be compared by."""
    if isinstance(hardware, Cluster):
        return list(_cluster_rows(hardware))
    return _accelerator_rows(hardware)


def source_rows(table: AcceleratorTable) -> list[Row]:
    """Rows with the source of each group of values."""
    return [(f"source of {k}", v) for k, v in dataclasses.asdict(table.sources).items() if v]


def compared_rows(first: str, second: str) -> list[tuple[str, str, str, str]]:
    """The values of two accelerators, or two clusters, and the second's over the first's.

    Raises `ParplanError` for one of each.
    """
    a, b = hardware_named(first), hardware_named(second)
    kinds = ["a cluster" if isinstance(one, Cluster) else "an accelerator" for one in (a, b)]
    if kinds[0] != kinds[1]:
        raise ParplanError(f"compare: {first} is {kinds[0]}, {second} {kinds[1]}")
    left, right = dict(rows_of(a)), dict(rows_of(b))
    return [
        (label, left.get(label, "-"), right.get(label, "-"), _ratio(left, right, label))
        for label in {**left, **right}
    ]


def _ratio(left: dict[str, str], right: dict[str, str], label: str) -> str:
    try:
        return f"{float(right[label]) / float(left[label]):.2f}"
    except (KeyError, ValueError, ZeroDivisionError):
        return ""


def _accelerator_rows(table: AcceleratorTable) -> list[Row]:
    rates = dataclasses.asdict(table.dense_tflop_per_s)
    return [
        ("title", table.title),
        *((f"{d} [TFLOP/s, dense]", "-" if r is None else f"{r:g}") for d, r in rates.items()),
        ("memory [GB]", f"{table.memory_gb:g}"),
        ("usable memory [MiB]", f"{table.usable_memory_mib:g}"),
        ("memory bandwidth [GB/s]", f"{table.hbm_gb_per_s:g}"),
        ("link", table.link),
        ("link [GB/s per direction]", f"{table.link_gb_per_s_per_direction:g}"),
        ("PCIe [GB/s per direction]", f"{table.pcie_gb_per_s_per_direction:g}"),
        ("processors", f"{table.num_processors}"),
        ("share of peak, large products", f"{table.gemm_efficiency:g}"),
        ("share of memory bandwidth", f"{table.hbm_efficiency:g}"),
        ("shortest kernel [us]", f"{table.kernel_launch_us:g}"),
        ("power at most [W]", "-" if table.board_power_w is None else f"{table.board_power_w:g}"),
    ]


def _cluster_rows(cluster: Cluster) -> Iterator[Row]:
    yield "cluster", cluster.name
    yield "accelerator", cluster.accelerator.name
    yield "accelerators", f"{cluster.num_accelerators}"
    yield "nodes", f"{cluster.num_nodes}"
    for number, tier in enumerate(cluster.tiers, start=1):
        yield f"tier {number}", f"{tier.name} of {tier.size}"
        for label, value in _tier_rows(tier):
            yield f"tier {number} {label}", value


def _tier_rows(tier: Tier) -> Iterator[Row]:
    """Bandwidths are per accelerator and direction."""
    fabric = tier.fabric
    if fabric is not None:
        yield "fabric", _fabric(fabric)
        yield "data sheet [GB/s]", f"{fabric.nominal_bytes_per_s / GB:.4g}"
    yield "long messages [GB/s]", f"{tier.link.bytes_per_s / GB:.4g}"
    yield "latency [us]", f"{tier.link.latency_s * 1e6:g}"
    name = None if fabric is None else class_of(fabric, read_efficiencies())
    yield "collectives", name or "plain latency and bandwidth"


def _fabric(fabric: Fabric) -> str:
    parts = [fabric.kind]
    if fabric.kind in NETWORK_FABRICS:
        parts.append(f"{fabric.nics_per_node} interfaces a node")
    if fabric.oversubscription > 1:
        parts.append(f"oversubscribed {fabric.oversubscription:g} to 1")
    if fabric.peer_bytes_per_s is not None:
        parts.append(f"{fabric.peer_bytes_per_s / GB:g} GB/s a link")
    if fabric.dims:
        parts.append("x".join(map(str, fabric.dims)))
    return ", ".join(parts)
