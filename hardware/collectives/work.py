"""Sequential steps and transferred bytes of each collective algorithm.

The size S of a collective is the `size` of nccl-tests (doc/PERFORMANCE.md there):

- all_reduce, broadcast: the buffer of every rank; send_recv: the message.
- all_gather: the gathered buffer; reduce_scatter, all_to_all: what every rank puts in.

Closed forms, with n ranks in N nodes of m:

- ring: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations
  in MPICH", sections 4.1 to 4.4; a ring over nodes enters each node once, so a share (N - 1) of
  its steps crosses the network (the latency model of NCCL, src/graph/tuning.cc).
- halving-doubling: the same paper, sections 4.1 to 4.4; ranks beyond a power of two hand their
  buffer to a neighbour first and get the result last.
- tree: double binary tree (Sanders, Speck and Traff 2009, "Two-tree algorithms for full bandwidth
  broadcast, reduction and scan"): each tree carries half of S in small pieces, so that a step costs
  its latency alone. Between nodes the tree joins nodes, and a chain the ranks of a node (NCCL).
- hierarchical: inside the node, then across with 1/m of the buffer per rank, then inside again.
- in-switch: the switch sums and copies (NVLink SHARP; Graham et al. 2016, "Scalable Hierarchical
  Aggregation Protocol"): each rank sends and receives S once; between nodes, a tree.
- direct: every rank sends to every other by itself.
"""

from dataclasses import dataclass
from math import ceil, log2

from parplan.errors import ParplanError

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")

ALGORITHMS = ("ring", "tree", "halving-doubling", "hierarchical", "in-switch", "direct")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveWork:
    """One algorithm on one collective. Steps count latencies on the longest path."""

    inside_steps: float = 0.0
    across_steps: float = 0.0
    inside_bytes: float = 0.0
    """Sent by a rank over its link inside the node (the busiest one, one direction)."""
    across_bytes: float = 0.0
    """Sent by a node over the network (the busiest one, one direction)."""
    overlapped: bool = True
    """Whether both kinds of links work at the same time; else one after the other."""


def work(
    op: str, algorithm: str, num_ranks: int, num_nodes: int, num_bytes: float
) -> CollectiveWork | None:
    """Work of `algorithm` for `op` of size `num_bytes`; None where it does not support it.

    Raises `ParplanError` for an unknown op or algorithm, or ranks that do not fill the nodes.
    """
    if op not in OPS:
        raise ParplanError(f"collective {op!r} is not one of {', '.join(OPS)}")
    if algorithm not in ALGORITHMS:
        raise ParplanError(f"algorithm {algorithm!r} is not one of {', '.join(ALGORITHMS)}")
    if not 1 <= num_nodes <= num_ranks:
        raise ParplanError(f"{num_ranks} ranks cannot be in {num_nodes} nodes")
    if num_ranks == 1:
        return CollectiveWork()
    n, nodes, size = num_ranks, num_nodes, num_bytes
    if op == "send_recv":
        return _send(nodes, size) if algorithm == "direct" else None
    if op == "all_to_all":
        return _all_to_all(algorithm, n, nodes, size)
    if op == "broadcast":
        return _broadcast(algorithm, n, nodes, size)
    if op == "all_reduce":
        return _all_reduce(algorithm, n, nodes, size)
    return _gather(algorithm, n, nodes, size)


def _send(nodes: int, size: float) -> CollectiveWork:
    if nodes > 1:
        return CollectiveWork(across_steps=1, across_bytes=size)
    return CollectiveWork(inside_steps=1, inside_bytes=size)


def _gather(algorithm: str, n: int, nodes: int, size: float) -> CollectiveWork | None:
    """All-gather; a reduce-scatter is the same backwards."""
    m, share = n / nodes, (n - 1) / n * size
    if algorithm == "ring":
        across = share if nodes > 1 else 0.0
        return CollectiveWork(
            inside_steps=n - nodes,
            across_steps=nodes - 1,
            inside_bytes=share,
            across_bytes=across,
        )
    if algorithm == "halving-doubling" and _power_of_two(n) and _power_of_two(nodes):
        return CollectiveWork(
            inside_steps=log2(m),
            across_steps=log2(nodes),
            inside_bytes=(m - 1) / m * size,
            across_bytes=(nodes - 1) / nodes * size,
            overlapped=False,
        )
    if algorithm == "hierarchical" and nodes > 1 and n % nodes == 0 and m > 1:
        return CollectiveWork(
            inside_steps=m - 1,
            across_steps=nodes - 1,
            inside_bytes=(m - 1) / m * size,
            across_bytes=(nodes - 1) / nodes * size,
            overlapped=False,
        )
    return None


def _all_reduce(algorithm: str, n: int, nodes: int, size: float) -> CollectiveWork | None:
    if algorithm == "tree":
        return CollectiveWork(
            inside_steps=2 * (ceil(n / nodes) - 1 if nodes > 1 else ceil(log2(n))),
            across_steps=2 * ceil(log2(nodes)),
            inside_bytes=tree_bytes(n, size),
            across_bytes=tree_bytes(nodes, size),
        )
    if algorithm == "in-switch":
        return CollectiveWork(
            inside_steps=2,
            across_steps=2 * ceil(log2(nodes)),
            inside_bytes=size,
            across_bytes=tree_bytes(nodes, size),
        )
    if algorithm == "halving-doubling" and nodes == 1 and not _power_of_two(n):
        whole = 2 ** int(log2(n))
        return CollectiveWork(
            inside_steps=2 * log2(whole) + 2,
            inside_bytes=2 * (whole - 1) / whole * size + 2 * size,
            overlapped=False,
        )
    half = _gather(algorithm, n, nodes, size)
    if half is None:
        return None
    return CollectiveWork(
        inside_steps=2 * half.inside_steps,
        across_steps=2 * half.across_steps,
        inside_bytes=2 * half.inside_bytes,
        across_bytes=2 * half.across_bytes,
        overlapped=half.overlapped,
    )


def tree_bytes(n: int, size: float) -> float:
    """Bytes sent by a member of a double binary tree.

    A leaf of one tree is an inner node of the other.
    """
    return {1: 0.0, 2: size}.get(n, 2 * size)


def _broadcast(algorithm: str, n: int, nodes: int, size: float) -> CollectiveWork | None:
    if algorithm == "in-switch":
        inside, across = 1.0, float(ceil(log2(nodes)))
    elif algorithm == "tree":
        inside = float(ceil(n / nodes) - 1 if nodes > 1 else ceil(log2(n)))
        across = float(ceil(log2(nodes)))
    elif algorithm == "ring":
        inside, across = float(n - nodes), float(nodes - 1)
    else:
        return None
    return CollectiveWork(
        inside_steps=inside,
        across_steps=across,
        inside_bytes=size if n > nodes else 0.0,
        across_bytes=size if nodes > 1 else 0.0,
    )


def _all_to_all(algorithm: str, n: int, nodes: int, size: float) -> CollectiveWork | None:
    m = n / nodes
    across = m * size * (n - m) / n
    if algorithm == "direct":
        return CollectiveWork(
            inside_steps=m - 1,
            across_steps=n - m,
            inside_bytes=size * (m - 1) / n,
            across_bytes=across,
        )
    if algorithm == "hierarchical" and nodes > 1 and n % nodes == 0 and m > 1:
        return CollectiveWork(
            inside_steps=m - 1,
            across_steps=nodes - 1,
            inside_bytes=size * (m - 1) / m,
            across_bytes=across,
            overlapped=False,
        )
    return None


def _power_of_two(n: int) -> bool:
    return n & (n - 1) == 0
