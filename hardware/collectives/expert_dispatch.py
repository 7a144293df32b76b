"""Token dispatch to experts without duplicates per node or rank.

DeepEP and HybridEP send a token once to each node that has some of its experts, to the rank with
the sender's place there, which hands it to the ranks that have them; what comes back is added up on
the same way. Steps of the two are pipelined (deepseek-ai/DeepEP, README, "Normal kernels").
"""

from math import comb

from parplan.hardware.collectives.group import Group
from parplan.hardware.collectives.times import PROTOCOLS, available, work_s
from parplan.hardware.collectives.work import CollectiveWork


def needed_share(num_experts: int, top_k: int, num_parts: int) -> float:
    """The share of equal parts of the experts that a token needs, in the mean.

    Every choice of `top_k` of `num_experts` is as likely as any other.
    """
    rest = num_experts - max(1, num_experts // num_parts)
    return 1.0 - comb(rest, top_k) / comb(num_experts, top_k)


def dispatch_work(
    num_experts: int, top_k: int, num_ranks: int, num_nodes: int, num_bytes: float
) -> CollectiveWork:
    """Work of a dispatch of tokens whose copies for their experts are `num_bytes` on each rank."""
    once, m = num_bytes / top_k, num_ranks / num_nodes
    nodes = needed_share(num_experts, top_k, num_nodes) * (num_nodes - 1)
    ranks = needed_share(num_experts, top_k, num_ranks) * num_ranks
    return CollectiveWork(
        inside_steps=m - 1,
        across_steps=num_nodes - 1,
        # All that a rank's tokens need, but what is sent to a rank of the place itself.
        inside_bytes=once * ranks * (m - 1) / m,
        across_bytes=m * once * nodes,
    )


def dispatch_s(num_experts: int, top_k: int, group: Group, num_bytes: float) -> float:
    """Seconds of `dispatch_work` over the links of `group`, by the faster protocol."""
    if group.num_ranks == 1:
        return 0.0
    done = dispatch_work(num_experts, top_k, group.num_ranks, group.num_nodes, num_bytes)
    return min(
        work_s(done, group, "all_to_all", "hierarchical", protocol)
        for protocol in PROTOCOLS
        if available(group, "hierarchical", protocol)
    )
