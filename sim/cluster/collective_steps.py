"""The messages of a collective, and which of them wait for which: rings, trees, hierarchies.

The algorithms are those of `parplan.hardware.collectives.work`. Where a group has several ranks on
each of several nodes, rings and trees are as many as ranks on a node, each with its part of the
bytes, and each enters and leaves the nodes by other ranks, so that all network interfaces of the
group are used (the channels of NCCL).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.hardware.collectives.times import Collective

After = Mapping[int, tuple[int, ...]]
"""By rank: the messages that have to have arrived before it goes on."""

PIECES = 16
"""Pieces into which trees and chains cut what they pass on."""


class Transfer(NamedTuple):
    """One message of a collective."""

    source: int
    destination: int
    num_bytes: float
    after: tuple[int, ...]
    """Numbers of the messages that have to have arrived before it is sent."""
    channel: int
    """Which of the group's rings or trees it belongs to."""


class CollectiveRequest(NamedTuple):
    """A collective to simulate: ranks of each node, size, pieces of trees."""

    op: str
    num_bytes: float
    nodes: tuple[tuple[int, ...], ...]
    pieces: int

    @property
    def ranks(self) -> tuple[int, ...]:
        """All of them, node by node."""
        return tuple(rank for node in self.nodes for rank in node)

    def channels(self) -> list["CollectiveRequest"]:
        """The same once for each channel: its part of the bytes, its order within the nodes."""
        count = min(map(len, self.nodes)) if len(self.nodes) > 1 else 1
        turned = [
            tuple((*node[c % len(node) :], *node[: c % len(node)]) for node in self.nodes)
            for c in range(count)
        ]
        return [self._replace(num_bytes=self.num_bytes / count, nodes=nodes) for nodes in turned]


def transfers(
    collective: Collective,
    algorithm: str,
    nodes: Sequence[Sequence[int]],
    pieces: int = PIECES,
) -> list[Transfer]:
    """The messages of `collective` by `algorithm`, each after those that it waits for.

    `nodes`: the ranks of the group on each node. Size and bytes as `collective_work` counts them; a
    broadcast starts at the first rank. Raises `ParplanError` where the algorithm cannot do it.
    """
    asked = CollectiveRequest(collective.op, collective.num_bytes, tuple(map(tuple, nodes)), pieces)
    if len(asked.ranks) < 2:
        return []
    if pieces < 1:
        raise ParplanError(f"pieces: must be at least 1, got {pieces}")
    known = ALGORITHMS.get((algorithm, collective.op))
    if known is None:
        able = ", ".join(sorted({name for name, op in ALGORITHMS if op == collective.op}))
        raise ParplanError(
            f"{collective.op} by {algorithm!r} cannot be simulated; {able or 'nothing'} can"
        )
    sent: list[Transfer] = []
    known(asked, sent)
    return sent


def _ring(
    sent: list[Transfer],
    ranks: Sequence[int],
    num_bytes: float,
    steps: int,
    after: After,
    channel: int = 0,
) -> After:
    """Steps of a ring; in each, every rank sends on what it received in the previous one."""
    for _ in range(steps):
        got: dict[int, tuple[int, ...]] = {}
        for rank, to in zip(ranks, (*ranks[1:], ranks[0]), strict=True):
            got[to] = (len(sent),)
            sent.append(Transfer(rank, to, num_bytes, after.get(rank, ()), channel))
        after = got
    return after


def _rings(asked: CollectiveRequest, sent: list[Transfer]) -> None:
    rounds = 2 if asked.op == "all_reduce" else 1
    for channel, own in enumerate(asked.channels()):
        n = len(own.ranks)
        _ring(sent, own.ranks, own.num_bytes / n, rounds * (n - 1), {}, channel)


def _pairwise(sent: list[Transfer], ranks: Sequence[int], num_bytes: float, after: After) -> After:
    """In step k each rank sends to the k-th behind it, and goes on when both ways are done."""
    n = len(ranks)
    for step in range(1, n):
        done: dict[int, tuple[int, ...]] = {}
        for i, rank in enumerate(ranks):
            to = ranks[(i + step) % n]
            done[rank] = (*done.get(rank, ()), len(sent))
            done[to] = (*done.get(to, ()), len(sent))
            sent.append(Transfer(rank, to, num_bytes, after.get(rank, ()), 0))
        after = done
    return after


def _direct(asked: CollectiveRequest, sent: list[Transfer]) -> None:
    """Each rank sends to all others, one after the other inside its node and across it at once.

    Every rank starts with the peer behind its own place and goes round, so that at any time each
    one receives from one rank of its node and from one of another node.
    """
    nodes, size = asked.nodes, asked.num_bytes / len(asked.ranks)
    for number, node in enumerate(nodes):
        for place, rank in enumerate(node):
            inside = [node[(place + step) % len(node)] for step in range(1, len(node))]
            others = [*nodes[number + 1 :], *nodes[:number]]
            across = [
                other[(place + step) % len(other)] for other in others for step in range(len(other))
            ]
            for peers in (inside, across):
                after: tuple[int, ...] = ()
                for peer in peers:
                    sent.append(Transfer(rank, peer, size, after, 0))
                    after = (len(sent) - 1,)


def _hierarchy(asked: CollectiveRequest, sent: list[Transfer]) -> None:
    """Inside the nodes; across them, between the ranks at the same place; inside again."""
    nodes, m = asked.nodes, len(asked.nodes[0])
    if any(len(node) != m for node in nodes) or len(nodes) < 2 or m < 2:
        raise ParplanError(
            "hierarchical: needs several nodes with equally many ranks, several on each; got "
            f"{', '.join(str(len(node)) for node in nodes)}"
        )
    size, rails = asked.num_bytes, list(zip(*nodes, strict=True))
    after: dict[int, tuple[int, ...]] = {}

    def inside() -> None:
        for node in nodes:
            if asked.op == "all_to_all":
                after.update(_pairwise(sent, node, size / m, after))
            else:
                after.update(_ring(sent, node, size / m, m - 1, after))

    def across(rounds: int) -> None:
        for rail in rails:
            if asked.op == "all_to_all":
                after.update(_pairwise(sent, rail, size / len(nodes), after))
            else:
                steps = rounds * (len(nodes) - 1)
                after.update(_ring(sent, rail, size / m / len(nodes), steps, after))

    if asked.op != "all_gather":
        inside()
    across(2 if asked.op == "all_reduce" else 1)
    if asked.op in ("all_gather", "all_reduce"):
        inside()


def _chain(asked: CollectiveRequest, sent: list[Transfer]) -> None:
    """A broadcast from rank to rank in pieces; each channel leaves the nodes by other ranks."""
    root = asked.ranks[0]
    for channel, own in enumerate(asked.channels()):
        first = (root, *(rank for rank in own.nodes[0] if rank != root))
        chains = (first, *own.nodes[1:])
        parents = {rank: before for chain in chains for before, rank in pairwise(chain)}
        parents |= {entered[0]: left[-1] for left, entered in pairwise(own.nodes)}
        _down(sent, root, parents, (own.num_bytes / own.pieces, own.pieces), {}, channel)


def tree_parents(num_ranks: int) -> list[int | None]:
    """A binary tree whose leaves are the odd ranks, with rank 0 above its root.

    Source: Sanders, Speck and Traff 2009, section 3 ("in-order" numbering).
    """
    parents: list[int | None] = [None]
    for rank in range(1, num_ranks):
        bit = rank & -rank
        parent = (rank ^ bit) | (bit << 1)
        parents.append(parent if parent < num_ranks else rank ^ bit)
    return parents


def two_trees(num_ranks: int) -> tuple[list[int | None], list[int | None]]:
    """Two trees such that who is a leaf in one is not in the other, but for one rank at most.

    The second is the mirror of the first; over an odd number of ranks, the first shifted by one.
    """
    n, first = num_ranks, tree_parents(num_ranks)
    second: list[int | None] = [None] * n
    for rank, parent in enumerate(first):
        if parent is not None:
            if n % 2:
                second[(rank + 1) % n] = (parent + 1) % n
            else:
                second[n - 1 - rank] = n - 1 - parent
    return first, second


def two_broadcast_trees(num_ranks: int) -> tuple[list[int | None], list[int | None]]:
    """The same, with rank 0 above the root of both."""
    n, first = num_ranks, tree_parents(num_ranks)
    second: list[int | None] = [None] * n

    def moved(rank: int) -> int:
        if rank == 0:
            return 0
        return n - rank if n % 2 else rank % (n - 1) + 1

    for rank, parent in enumerate(first):
        if parent is not None:
            second[moved(rank)] = moved(parent)
    return first, second


def _trees(asked: CollectiveRequest, sent: list[Transfer]) -> None:
    """Trees over the nodes, with a chain in each; within one node, over its ranks."""
    reduces = asked.op == "all_reduce"
    root = asked.ranks[0]
    for channel, own in enumerate(asked.channels()):
        nodes = own.nodes if len(own.nodes) > 1 else tuple((rank,) for rank in own.ranks)
        trees = (two_trees if reduces else two_broadcast_trees)(len(nodes))
        cut = own.num_bytes / 2 / own.pieces, own.pieces
        for number, tree in enumerate(trees):
            parents = {b: a for node in nodes for a, b in pairwise(node)}
            for place, parent in enumerate(tree):
                if parent is not None:
                    parents[nodes[place][0]] = nodes[parent][0]
            if reduces:
                top = nodes[tree.index(None)][0]
                after = _up(sent, parents, cut, 2 * channel + number)
                _down(sent, top, parents, cut, after, 2 * channel + number)
            else:
                _down(sent, root, _rooted(root, nodes[0], parents), cut, {}, 2 * channel + number)


def _rooted(root: int, node: Sequence[int], parents: dict[int, int]) -> dict[int, int]:
    """The tree with `root` above its node, which it leaves by the node's first rank."""
    chain = [rank for rank in node if rank != root]
    own = {b: a for a, b in pairwise(chain)} | dict.fromkeys(chain[:1], root)
    return {rank: parent for rank, parent in parents.items() if rank not in node} | own


Cut = tuple[float, int]
"""Bytes of a piece, and how many there are."""


def _children(parents: Mapping[int, int]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for rank, parent in parents.items():
        children.setdefault(parent, []).append(rank)
    return children


def _from_top(root: int, children: Mapping[int, Sequence[int]]) -> list[int]:
    order = [root]
    for rank in order:
        order += children.get(rank, ())
    return order


def _up(sent: list[Transfer], parents: Mapping[int, int], cut: Cut, channel: int) -> After:
    """Every rank adds what its children sent, and sends the sum; by piece, what the root got."""
    children = _children(parents)
    root = next(rank for rank in children if rank not in parents)
    order = _from_top(root, children)[:0:-1]
    done: dict[int, tuple[int, ...]] = {}
    for piece in range(cut[1]):
        got: dict[int, tuple[int, ...]] = {}
        for rank in order:
            to = parents[rank]
            got[to] = (*got.get(to, ()), len(sent))
            sent.append(Transfer(rank, to, cut[0], got.get(rank, ()), channel))
        done[piece] = got[root]
    return done


def _down(
    sent: list[Transfer],
    root: int,
    parents: Mapping[int, int],
    cut: Cut,
    after: After,
    channel: int,
) -> None:
    """Every rank passes on what its parent sent; `after`: by piece, before the root sends it."""
    order = _from_top(root, _children(parents))[1:]
    for piece in range(cut[1]):
        got = {root: after.get(piece, ())}
        for rank in order:
            before = got[parents[rank]]
            got[rank] = (len(sent),)
            sent.append(Transfer(parents[rank], rank, cut[0], before, channel))


ALGORITHMS: dict[tuple[str, str], Callable[[CollectiveRequest, list[Transfer]], None]] = {
    ("ring", "all_reduce"): _rings,
    ("ring", "all_gather"): _rings,
    ("ring", "reduce_scatter"): _rings,
    ("ring", "broadcast"): _chain,
    ("tree", "all_reduce"): _trees,
    ("tree", "broadcast"): _trees,
    ("hierarchical", "all_reduce"): _hierarchy,
    ("hierarchical", "all_gather"): _hierarchy,
    ("hierarchical", "reduce_scatter"): _hierarchy,
    ("hierarchical", "all_to_all"): _hierarchy,
    ("direct", "all_to_all"): _direct,
}
"""What can be simulated: (algorithm, op)."""
