"""Machines with one property scaled."""

from collections.abc import Callable
from dataclasses import fields, replace

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.collectives.group import is_network
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.network.cluster import Cluster, Link


def _links(cluster: Cluster, network: bool, change: Callable[[Link], Link]) -> Cluster:
    """With other links between the nodes, or within them."""
    chosen = [is_network(cluster, tier) is network for tier in cluster.tiers]
    if not any(chosen):
        what = "between nodes" if network else "within a node"
        raise ParplanError(f"{cluster.name}: has no links {what}")
    tiers = tuple(
        replace(tier, link=change(tier.link)) if mine else tier
        for mine, tier in zip(chosen, cluster.tiers, strict=True)
    )
    return replace(cluster, tiers=tiers)


def _faster(factor: float) -> Callable[[Link], Link]:
    return lambda link: replace(link, bytes_per_s=factor * link.bytes_per_s)


def _device(cluster: Cluster, change: Callable[[Accelerator], Accelerator]) -> Cluster:
    return replace(cluster, accelerator=change(cluster.accelerator))


def _rates(device: Accelerator, factor: float) -> Accelerator:
    rates = {f.name: getattr(device.peak_flop_per_s, f.name) for f in fields(DenseRates)}
    faster = {name: factor * rate for name, rate in rates.items() if rate is not None}
    return replace(device, peak_flop_per_s=DenseRates(**faster))


CHANGES: dict[str, Callable[[Cluster, float], Cluster]] = {
    "network_bandwidth": lambda c, x: _links(c, True, _faster(x)),
    "network_latency": lambda c, x: _links(
        c, True, lambda link: replace(link, latency_s=x * link.latency_s)
    ),
    "node_bandwidth": lambda c, x: _links(c, False, _faster(x)),
    "memory": lambda c, x: _device(c, lambda d: replace(d, memory_bytes=round(x * d.memory_bytes))),
    "memory_bandwidth": lambda c, x: _device(
        c, lambda d: replace(d, hbm_bytes_per_s=x * d.hbm_bytes_per_s)
    ),
    "compute": lambda c, x: _device(c, lambda d: _rates(d, x)),
}
"""Each makes one thing of a machine so many times as large."""

MEASURED = ("network_bandwidth", "network_latency", "node_bandwidth", "memory_bandwidth", "compute")
"""What measurements override."""


def changed(cluster: Cluster, name: str, factor: float) -> Cluster:
    """`cluster` with one thing `factor` times as large.

    Raises `ParplanError` for an unknown name, a factor that is not positive, and for what the
    cluster lacks or what was measured on it.
    """
    if name not in CHANGES:
        raise unknown_name("part of a machine", name, CHANGES)
    if not factor > 0:
        raise ParplanError(f"{name}: the factor has to be above 0, got {factor:g}")
    if cluster.measured is not None and name in MEASURED:
        raise ParplanError(f"{name}: of {cluster.name} it was measured, and cannot be varied")
    found = CHANGES[name](cluster, factor)
    return cluster if factor == 1 else found
