"""1F1B: one forward, one backward (PipeDream-Flush, Narayanan et al. 2021, arXiv:2104.04473)."""

from parplan.sim.programs.instructions import Action, RankActions, Schedule


def one_f_one_b(num_ranks: int, num_micro_batches: int) -> Schedule:
    """Warm-up forwards, alternating forwards and backwards, then the remaining backwards."""
    return tuple(_rank(rank, num_ranks, num_micro_batches) for rank in range(num_ranks))


def _rank(rank: int, num_ranks: int, num_micro_batches: int) -> RankActions:
    warm_up = min(num_ranks - rank, num_micro_batches)
    forwards = [Action(rank, "F", m) for m in range(num_micro_batches)]
    backwards = [Action(rank, "B", m) for m in range(num_micro_batches)]
    steady = [a for pair in zip(backwards, forwards[warm_up:], strict=False) for a in pair]
    drain = backwards[num_micro_batches - warm_up :]
    return (*forwards[:warm_up], *steady, *drain)
