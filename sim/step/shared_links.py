"""Links that several directed pairs of ranks share, and how they share them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from parplan.errors import ParplanError

Pair = tuple[int, int]
"""From rank, to rank."""

FULL_RATE = 2**16
"""Rates are whole parts of this, so that both simulators round alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLinks:
    """The links that the messages between two ranks cross. Other pairs have a link of their own.

    A pair sends one message at a time in either way of sharing.

    fifo: a link carries one message at a time. Messages are served in the order in which they are
    ready; those that are ready at the same instant by rank, then by place in the list of their
    rank. At one instant, first all that ends, arrives and begins does so; then the free link with
    the lowest number takes its next message; and again until nothing is left.

    fair: the messages that cross a link at the same time share it, max-min fairly over all links
    (Bertsekas and Gallager, Data Networks, 1992, section 6.5.2). Alone, a message takes the
    `send_s` of its stage. Rates are rounded down to parts of `FULL_RATE`.
    """

    links: Mapping[Pair, Sequence[int]]
    """The links of each pair, numbered from 0; one for each pair under fifo."""
    sharing: Literal["fifo", "fair"] = "fifo"

    def __post_init__(self) -> None:
        for pair, links in self.links.items():
            if not links or min(links) < 0:
                raise ParplanError(f"links: {pair} needs links from 0 on, got {list(links)}")
            if self.sharing == "fifo" and len(links) > 1:
                raise ParplanError(f"links: {pair} crosses {len(links)}; fifo allows one")

    @property
    def num_links(self) -> int:
        """Links that are shared."""
        return 1 + max((max(links) for links in self.links.values()), default=-1)


def node_links(
    num_ranks: int, ranks_per_node: int, sharing: Literal["fifo", "fair"] = "fifo"
) -> SharedLinks:
    """One network interface for `ranks_per_node` pipeline ranks in a row.

    All messages that leave the node share its way out, under fair sharing also its way in.
    """
    nodes = -(-num_ranks // ranks_per_node)
    links = {}
    for a in range(num_ranks):
        for b in range(num_ranks):
            out, into = a // ranks_per_node, b // ranks_per_node
            if out != into:
                links[a, b] = (out,) if sharing == "fifo" else (out, nodes + into)
    return SharedLinks(links=links, sharing=sharing)


def fair_rates(links: Mapping[Pair, Sequence[int]], active: Iterable[Pair]) -> dict[Pair, int]:
    """The max-min fair rate of each active pair, in parts of `FULL_RATE`, at least one.

    Again and again, the link that leaves the least to each of its pairs decides their rate; of
    equals, the one with the lowest number.
    """
    rates: dict[Pair, int] = {}
    waiting: dict[int, list[Pair]] = {}
    for pair in sorted(active):
        for link in set(links[pair]):
            waiting.setdefault(link, []).append(pair)
    left = dict.fromkeys(waiting, FULL_RATE)
    while waiting:
        share, tightest = min((left[k] // len(pairs), k) for k, pairs in waiting.items())
        for pair in waiting.pop(tightest):
            rates[pair] = max(share, 1)
            for link in set(links[pair]) - {tightest}:
                left[link] -= share
                waiting[link].remove(pair)
                if not waiting[link]:
                    del waiting[link]
    return rates


def slow_rate(slowdown: float) -> int:
    """Parts of a picosecond's work while messages run, at least one."""
    if not slowdown >= 1.0:
        raise ParplanError(f"compute_slowdown_during_messages: must be at least 1, got {slowdown}")
    return max(1, int(FULL_RATE / slowdown))
