"""Collectives in closed form (alpha-beta model), over one tier of links.

Ring algorithms: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication
Operations in MPICH", sections 4.1 to 4.4. With n ranks, each of the n - 1 steps sends 1/n of the
buffer.
"""

from parplan.hardware.cluster import Link


def all_gather_s(link: Link, num_ranks: int, num_bytes: float) -> float:
    """Seconds until every rank has all `num_bytes` (the size of the gathered buffer)."""
    steps = num_ranks - 1
    return steps * link.latency_s + steps / num_ranks * num_bytes / link.bytes_per_s


def reduce_scatter_s(link: Link, num_ranks: int, num_bytes: float) -> float:
    """Seconds until every rank has its share of the sum of `num_bytes` per rank."""
    return all_gather_s(link, num_ranks, num_bytes)


def all_reduce_s(link: Link, num_ranks: int, num_bytes: float) -> float:
    """Seconds until every rank has the sum of `num_bytes` per rank: both of the above."""
    return 2 * all_gather_s(link, num_ranks, num_bytes)
