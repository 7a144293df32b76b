"""ZB-H1 and ZB-H2: 1F1B with the backward split in two, so that weight gradients fill bubbles.

Qi et al. 2023 (Zero Bubble Pipeline Parallelism, arXiv:2401.10241), sections 2.1 and 2.2, figure 3.
"""

from parplan.sim.programs.instructions import Action, RankActions, Schedule


def zb_h1(num_ranks: int, num_micro_batches: int) -> Schedule:
    """1F1B in which rank r computes weight gradients r micro-batches late.

    Every rank then holds as many micro-batches as 1F1B's first, p; the bubble is
    (p - 1)(f + i - w) (table 2).
    """
    p = num_ranks
    return tuple(
        delayed_weights(rank, num_micro_batches, warm_up=p - rank, delay=rank) for rank in range(p)
    )


def zb_h2(num_ranks: int, num_micro_batches: int) -> Schedule:
    """Twice the warm-up of ZB-H1, and the weight gradients twice as late.

    Every rank holds 2p - 1 micro-batches; with enough of them the bubble inside a rank's work is
    (p - 1)(f + i - 2w) (table 2).
    """
    p = num_ranks
    return tuple(
        delayed_weights(rank, num_micro_batches, warm_up=2 * (p - rank) - 1, delay=2 * rank)
        for rank in range(p)
    )


def delayed_weights(rank: int, num_micro_batches: int, warm_up: int, delay: int) -> RankActions:
    """Computations of a rank whose weight gradients lag by `delay` micro-batches.

    `warm_up` forwards; then input gradients, each followed by the weight gradient of `delay`
    micro-batches before and by the next forward, until there is none left of each.
    """
    actions = [Action(rank, "F", m) for m in range(min(warm_up, num_micro_batches))]
    for m in range(num_micro_batches):
        actions.append(Action(rank, "I", m))
        if m >= delay:
            actions.append(Action(rank, "W", m - delay))
        if m + warm_up < num_micro_batches:
            actions.append(Action(rank, "F", m + warm_up))
    late = range(max(0, num_micro_batches - delay), num_micro_batches)
    return (*actions, *(Action(rank, "W", m) for m in late))
