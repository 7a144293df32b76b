"""Communication groups of a plan and the times of its collectives.

Ranks are placed with tensor parallelism innermost, then context, data and pipeline parallelism.
Experts are spread over neighbouring ranks of a stage (Megatron-LM's order tp-cp-ep-dp-pp).
"""

from typing import NamedTuple, cast, get_args

from parplan.hardware.collectives.expert_dispatch import dispatch_s
from parplan.hardware.collectives.group import Group, group_of
from parplan.hardware.collectives.times import Collective, collective_s
from parplan.hardware.estimates.profile import CollectiveCall, CollectiveOp
from parplan.hardware.kernels.kernel import Kernel
from parplan.hardware.network.cluster import Cluster, Link
from parplan.sim.layers.ops import Exchange
from parplan.sim.plan import Plan
from parplan.sim.software.framework import SLOWED_SHARE
from parplan.sim.software.habits import Software

NO_TIME = Link(latency_s=0.0, bytes_per_s=float("inf"))


def slowed_share(cluster: Cluster, software: Software) -> float:
    """Share of computation that collectives beside it slow down: `SLOWED_SHARE`, or none.

    None where that is no habit of the software, and on a torus, whose collectives are not kernels.
    """
    fabric = cluster.tiers[0].fabric
    by_itself = fabric is not None and fabric.kind == "torus"
    return SLOWED_SHARE if software.gathers_slow_kernels and not by_itself else 0.0


class KnownTimes(NamedTuple):
    """What is known of all plans of a workload on a cluster."""

    groups: dict[tuple[int, int], Group]
    """By ranks, and the distance of neighbours."""
    seconds: dict[tuple[object, float, tuple[int, int]], float]
    """By the collective, its bytes, and the group."""
    kernels: dict[float | None, dict[int, tuple[Kernel, float]]]
    """Kernels and their seconds by number, for each rate (`product_flop_per_s`)."""


class Communication:
    """The groups of `plan` on `cluster`."""

    def __init__(self, cluster: Cluster, plan: Plan, known: KnownTimes | None = None) -> None:
        """`known`: of other plans on the same cluster, which this one adds to."""
        self.cluster = cluster
        self.plan = plan
        tensor, shards = plan.tensor_parallel, plan.sharded_over
        expert_split = plan.expert_tensor_parallel or tensor
        spread = plan.expert_parallel * expert_split
        # Ranks, and the distance between neighbours.
        self.groups: dict[str, tuple[int, int]] = {
            "tensor": (tensor, 1),
            "context": (plan.context_parallel, tensor),
            "expert": (plan.expert_parallel, expert_split),
            "replicas": (plan.replicas, tensor),
            "shards": (shards, tensor),
            "copies": (plan.replicas // shards, tensor * shards),
            "expert replicas": (plan.replicas * tensor // spread, spread),
            # The other copy of the first stage, of schedules that have two of each.
            "twins": (min(2, plan.num_stages), tensor * plan.replicas * (plan.num_stages - 1) or 1),
        }
        self._groups, self._known, _ = KnownTimes({}, {}, {}) if known is None else known

    def size(self, group: str) -> int:
        """The number of ranks of a group."""
        return self.groups[group][0]

    def exchange_s(self, exchange: Exchange) -> float:
        """Seconds of an exchange within a layer."""
        if exchange.once_per_node is not None:
            return self._dispatch_s(exchange, *exchange.once_per_node)
        return self.collective_s(exchange.op, exchange.num_bytes, exchange.group)

    def _dispatch_s(self, exchange: Exchange, top_k: int, num_experts: int) -> float:
        key = (top_k, num_experts), exchange.num_bytes, self.groups[exchange.group]
        if key not in self._known:
            group = self._group(exchange.group)
            self._known[key] = dispatch_s(num_experts, top_k, group, exchange.num_bytes)
        return self._known[key]

    def collective_s(self, op: str, num_bytes: float, group: str) -> float:
        """Seconds of a collective; `num_bytes` as `Exchange` counts them."""
        own = self.groups[group]
        if own[0] == 1 or num_bytes == 0:
            return 0.0
        key = op, num_bytes, own
        if key not in self._known:
            self._known[key] = self._seconds(op, num_bytes, group)
        return self._known[key]

    def _seconds(self, op: str, num_bytes: float, group: str) -> float:
        measured, (size, _) = self.cluster.measured, self.groups[group]
        if measured is not None and op in get_args(CollectiveOp):
            what = CollectiveCall(
                op=cast(CollectiveOp, op),
                num_bytes=max(1, round(num_bytes)),
                num_ranks=size,
                ranks_per_node=size,
            )
            found = measured.collective(what)
            if found is not None:
                return found.seconds
        return collective_s(Collective(op=op, num_bytes=num_bytes), self._group(group))

    def neighbour(self) -> Link:
        """The link from a stage to the next one."""
        if self.plan.num_stages == 1:
            return NO_TIME
        return self.cluster.link_between(0, self.plan.tensor_parallel * self.plan.replicas)

    def _group(self, group: str) -> Group:
        own = size, distance = self.groups[group]
        if own not in self._groups:
            self._groups[own] = group_of(self.cluster, range(0, size * distance, distance))
        return self._groups[own]
