"""GPipe: all forwards, then all backwards (Huang et al. 2019, arXiv:1811.06965)."""

from parplan.sim.programs.instructions import Action, Schedule


def gpipe(num_ranks: int, num_micro_batches: int) -> Schedule:
    """Every rank runs its micro-batches forward in order, then backward in the same order."""
    return tuple(
        tuple(Action(rank, op, m) for op in "FB" for m in range(num_micro_batches))
        for rank in range(num_ranks)
    )
