"""Looped breadth-first pipeline (Lamy-Poirier 2022, arXiv:2211.05953)."""

from parplan.sim.programs.instructions import Action, Schedule


def looped_bfs(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> Schedule:
    """All micro-batches through a stage before the rank's next stage, and back the same way.

    It uses each stage's parameters once forward and once backward, as sharded ones want it. The
    micro-batches come back last in, first out, as in torch.
    """
    stages = range(num_ranks * virtual_stages)
    order = range(num_micro_batches)
    return tuple(
        (
            *(Action(s, "F", m) for s in stages[rank::num_ranks] for m in order),
            *(Action(s, "B", m) for s in stages[rank::num_ranks][::-1] for m in order[::-1]),
        )
        for rank in range(num_ranks)
    )
