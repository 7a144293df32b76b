"""ZB-V: zero bubble with the activation memory of 1F1B, on stages placed down and up the ranks.

Qi et al. 2023 (arXiv:2401.10241, section 6, figure 8); Qi et al. 2024 (Pipeline Parallelism with
Controllable Memory, arXiv:2405.15362). The handcrafted order, for f = i = w, as in torch.
"""

from collections import defaultdict
from collections.abc import Iterator

from parplan.sim.programs.instructions import Action, RankActions, Schedule


def zb_v(num_ranks: int, num_micro_batches: int) -> Schedule:
    """Two stages per rank, r and 2p - 1 - r, so that the backward starts where the forward ends.

    At most p micro-batches' activations (2p of half a rank's) are held. It is laid out for at
    least 2p - 1 micro-batches; of fewer, the missing ones are left out.
    """
    return tuple(_rank(rank, num_ranks, num_micro_batches) for rank in range(num_ranks))


def _rank(rank: int, num_ranks: int, num_micro_batches: int) -> RankActions:
    stage = {"a": rank, "b": 2 * num_ranks - 1 - rank}
    done: dict[str, int] = defaultdict(int)
    actions = []
    for step in _steps(rank, num_ranks, max(2 * num_ranks - 1, num_micro_batches)):
        if done[step] < num_micro_batches:
            actions.append(Action(stage[step[0]], step[1], done[step]))
        done[step] += 1
    return tuple(actions)


def _steps(rank: int, num_ranks: int, num_micro_batches: int) -> Iterator[str]:
    """Chunk (a is the rank's first stage, b its second) and operation, in order."""
    p, m = num_ranks, num_micro_batches
    # Warm-up: forwards until the first micro-batch is back, then whole passes of b.
    yield from ["aF"] * (2 * (p - rank) - 1)
    yield from ["bF", "aF"] * rank
    yield from ["bF", "bI", "bW"] * (p - rank)
    # Steady state: a whole pass of each chunk in turn, until a and then b have no forward left.
    yield from ["aF", "aI", "aW", "bF", "bI", "bW"] * (m - 2 * p + 1 + rank)
    yield from ["aI", "aW", "bF", "bI", "bW"] * (p - 1 - rank)
    # The end: input gradients first, weight gradients fill what is left.
    yield from ["aI", "bI"] * rank
    yield from ["aI", "aW"] * (p - rank)
    yield from ["bW"] * rank
    yield from ["aW"] * rank
