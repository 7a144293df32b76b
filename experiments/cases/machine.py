"""The cluster of a case: the preset of its accelerator, with the network that the case states."""

import re
from dataclasses import dataclass, replace
from functools import cache

from parplan.errors import ParplanError
from parplan.experiments.cases.read import CaseHardware
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.machines.presets import (
    accelerator_preset,
    accelerator_table,
    node_table,
)
from parplan.hardware.machines.tables import cluster_of
from parplan.hardware.network.cluster import Cluster

NODES = {
    "A100-80": "dgx-a100-80gb",
    "A100-40": "dgx-a100-40gb",
    "V100-32": "dgx-2-v100",
    "H100": "dgx-h100",
    "H200": "dgx-h200",
    "B200": "dgx-b200",
    "B300": "dgx-b300",
    "GB200": "gb200-nvl72",
    "GB300": "gb300-nvl72",
    "MI300X": "mi300x-8",
    "MI325X": "mi325x-8",
    "MI355X": "mi355x-8",
    "Gaudi2": "gaudi2-8",
    "v4": "tpu-v4-pod",
    "v5e": "tpu-v5e-pod",
    "v5p": "tpu-v5p-pod",
    "v6e": "tpu-v6e-pod",
}
"""The node preset of each `hardware.key`."""

POWER_W = {"dgx-h100": 700, "dgx-h200": 700, "dgx-a100-80gb": 400, "dgx-a100-40gb": 400}
"""Board power of an accelerator: NVIDIA's data sheets."""

GBIT = 1e9 / 8
MOST_ACCELERATORS = 10**6

_RATE = re.compile(r"([\d.]+)\s*([GT])(?:b/[sS]|bps)")
_COUNT = re.compile(r"(\d+)\s*x\s")


def cluster_of_case(hardware: CaseHardware) -> Cluster:
    """The cluster; raises `ParplanError` when no preset has such accelerators."""
    node = NODES.get(hardware.key)
    if node is None:
        raise ParplanError(f"hardware.key: no preset for {hardware.key!r}")
    for name in ("n_accelerators", "accelerators_per_node"):
        if not 1 <= getattr(hardware, name) <= MOST_ACCELERATORS:
            raise ParplanError(
                f"hardware.{name}: 1 to {MOST_ACCELERATORS}, got {getattr(hardware, name)}"
            )
    network = network_of(hardware.inter_link, hardware.accelerators_per_node)
    cluster = _cluster(node, hardware.n_accelerators, network)
    return replace(cluster, accelerator=as_noted(cluster.accelerator, node, hardware.note or ""))


def as_noted(device: Accelerator, node: str, note: str) -> Accelerator:
    """`device` with the memory, its bandwidth and the power limit that a case's note states.

    Within the range in which voltage follows frequency, power goes with its third power, so a
    limit lowers the clock by the cube root of its share of the usual power.
    """
    if found := re.search(r"(\d+)\s*GB\b(?!/)", note):
        # A program is given the same share of it as of the preset's.
        given = device.memory_bytes / accelerator_table(device.name).memory_gb
        device = replace(device, memory_bytes=round(int(found[1]) * given))
    if found := re.search(r"([\d.]+)\s*TB/s", note):
        device = replace(device, hbm_bytes_per_s=float(found[1]) * 1e12)
    if (found := re.search(r"(\d+)\s*W limit", note)) and node in POWER_W:
        slower = min(1.0, float(found[1]) / POWER_W[node]) ** (1 / 3)
        device = replace(
            device,
            gemm_efficiency=device.gemm_efficiency * slower,
            synchronous_attention_share=device.synchronous_attention_share * slower,
        )
    return device


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network between nodes that a case states: one of the two fields, in bytes per second."""

    per_accelerator: float | None = None
    per_interface: float | None = None


@cache
def _cluster(node: str, num_accelerators: int, network: Network | None) -> Cluster:
    table = node_table(node)
    if network is not None:
        (own,) = table.network
        rate = network.per_interface
        if network.per_accelerator is not None:
            rate = network.per_accelerator * table.accelerators / own.nics_per_node
        assert rate is not None
        table = replace(table, network=(replace(own, nic_gb_per_s_per_direction=rate / 1e9),))
    accelerator = accelerator_preset(table.accelerator)
    nodes = -(-num_accelerators // table.accelerators)
    # Racks of 72 are often used in part, so that the job divides evenly.
    nodes = next(n for n in range(nodes, num_accelerators + 1) if num_accelerators % n == 0)
    return cluster_of(f"{num_accelerators}x{node}", table, accelerator, nodes, num_accelerators)


def network_of(text: str | None, accelerators_per_node: int) -> Network | None:
    """The network that a case's `inter_link` states; None where it states no rate."""
    part = _compute_part(text or "")
    found = _RATE.search(part)
    if found is None:
        return None
    rate = float(found[1]) * (1000 if found[2] == "T" else 1) * GBIT
    count = _COUNT.search(part)
    if count is not None:
        return Network(per_accelerator=int(count[1]) * rate / accelerators_per_node)
    if "per node" in part:
        return Network(per_accelerator=rate / accelerators_per_node)
    return Network(per_interface=rate)


def _compute_part(text: str) -> str:
    """Return the part of a list of networks that is about the network between accelerators."""
    parts = re.split(r"[,+;]\s*(?=\S)", text)
    for part in parts:
        if "Compute" in part:
            return part
    return parts[0]
