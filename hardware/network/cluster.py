"""Clusters as nested network tiers, and the tiers that a group of ranks crosses."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from parplan._checked import checked
from parplan.errors import ParplanError
from parplan.hardware.estimates.estimate import Measurements
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.network.collective_efficiency import CollectiveEfficiency
from parplan.hardware.network.fabric import Fabric


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection as one accelerator sees it."""

    latency_s: float
    bytes_per_s: float
    """Per direction and accelerator, while its neighbours use theirs as well."""

    def __post_init__(self) -> None:
        if self.latency_s < 0:
            raise ParplanError(f"latency_s: must not be negative, got {self.latency_s}")
        if self.bytes_per_s <= 0:
            raise ParplanError(f"bytes_per_s: must be positive, got {self.bytes_per_s}")

    def transfer_s(self, num_bytes: float) -> float:
        """Seconds that a message of `num_bytes` takes from end to end (alpha-beta model)."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the interconnect: `size` consecutive ranks that reach each other by `link`."""

    name: str
    size: int
    link: Link
    fabric: Fabric | None = None
    """What it is made of, where that is known; `parplan.hardware.network.interconnect` reads it."""
    collectives: CollectiveEfficiency | None = None
    """What collectives reach on it; plain latency and bandwidth where not given."""


@checked()
@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`tiers`, innermost first; the last one spans the whole cluster. Rank r sits at place r."""

    name: str
    accelerator: Accelerator
    tiers: tuple[Tier, ...]
    num_nodes: int = 1
    measured: Measurements | None = field(default=None, compare=False, repr=False)
    """Kernels and collectives that were timed on it, which override the model of it."""

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ParplanError("tiers: a cluster needs at least one")
        for inner, outer in zip(self.tiers, self.tiers[1:], strict=False):
            if outer.size % inner.size:
                raise ParplanError(
                    f"tiers: {outer.name} ({outer.size}) is not a multiple of {inner.name} "
                    f"({inner.size})"
                )
        if self.num_nodes < 1 or self.num_accelerators % self.num_nodes:
            raise ParplanError(
                f"num_nodes: {self.num_accelerators} accelerators cannot be spread over "
                f"{self.num_nodes} nodes"
            )

    @property
    def num_accelerators(self) -> int:
        """The number of ranks of the cluster."""
        return self.tiers[-1].size

    def tier_of(self, ranks: Sequence[int]) -> Tier:
        """The innermost tier that holds all of `ranks`."""
        low, high = min(ranks), max(ranks)
        if low < 0 or high >= self.num_accelerators:
            raise ParplanError(
                f"rank {low if low < 0 else high}: {self.name} has ranks 0 to "
                f"{self.num_accelerators - 1}"
            )
        for tier in self.tiers:
            if low // tier.size == high // tier.size:
                return tier
        raise AssertionError("the last tier holds every rank")

    def link_between(self, a: int, b: int) -> Link:
        """The link that a message from rank `a` to rank `b` crosses."""
        return self.tier_of((a, b)).link


def enlarged(cluster: Cluster, times: int) -> Cluster:
    """A cluster of so many times as many nodes, joined as these are."""
    last = cluster.tiers[-1]
    tiers = (*cluster.tiers[:-1], replace(last, size=last.size * times))
    return replace(
        cluster, name=f"{times} x {cluster.name}", tiers=tiers, num_nodes=cluster.num_nodes * times
    )
