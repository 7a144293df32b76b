"""ZB-V: zero bubble with the activation memory of 1F1B, on stages placed down and up the ranks.

Qi et al. 2023 (arXiv:2401.10241, section 6, figure 8); Qi et al. 2024 (Pipeline Parallelism with
Controllable Memory, arXiv:2405.15362). The handcrafted order, for f = i = w, as in torch.
"""

from collections import defaultdict
from collections.abc import Iterator

from parplan.sim.instructions import Action, RankActions, Schedule


def zb_v(num_ranks: int, num_micro_batches: int) -> Schedule:
    """Two stages per rank, r and 2p - 1 - r, so that the backward starts where the forward ends.

    At most p micro-batches' activations (2p of half a rank's) are held. It is laid out for at
    least 2p - 1 micro-batches; of fewer, the missing ones are left out.
    """
    return tuple(_rank(rank, num_ranks, num_micro_batches) for rank in range(num_ranks))


def _rank(rank: int, num_ranks: int, num_micro_batches: int) -> RankActions:
    laid_out = max(2 * num_ranks - 1, num_micro_batches)
    stage = {"a": rank, "b": 2 * num_ranks - 1 - rank}
    done: dict[str, int] = defaultdict(int)
    actions = []
    for step in _steps(rank, num_ranks, laid_out):
        chunk, op = step
        if done[step] < num_micro_batches:
            actions.append(Action(stage[chunk], op, done[step]))
        done[step] += 1
    return tuple(actions)


def _steps(rank: int, num_ranks: int, num_micro_batches: int) -> Iterator[str]:
    """The rank's chunk (a is the first, b the second) and operation, in order."""
    p, m = num_ranks, num_micro_batches
    # Warm-up: forwards until the first micro-batch is back, then whole passes of chunk b.
    yield from ["aF"] * (2 * (p - rank) - 1)
    yield from ["bF", "aF"] * rank
    yield from ["bF", "bI", "bW"] * (p - rank)
    # Steady state: a whole pass of each chunk in turn, until chunk a is out of forwards; chunk b
    # then has its last p - rank forwards left.
    yield from ["aF", "aI", "aW", "bF", "bI", "bW"] * (m - 2 * p + rank + 1 - 1)
    yield from ()
