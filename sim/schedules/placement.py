"""Placement of virtual stages (model chunks) on pipeline ranks."""

from typing import Literal

Placement = Literal["loop", "v", "bidirectional"]
"""loop: stage s on rank s mod p. v: down the ranks, up again, down, ... bidirectional: stage s on
rank s for the first half of the micro-batches and on rank p - 1 - s for the second half."""


def rank_of_stage(placement: Placement, num_ranks: int, stage: int, second: bool = False) -> int:
    """The rank of `stage`; `second`: for a micro-batch of the second half (bidirectional only)."""
    turn, place = divmod(stage, num_ranks)
    back = second if placement == "bidirectional" else placement == "v" and turn % 2 == 1
    return num_ranks - 1 - place if back else place


def stages_of_rank(
    placement: Placement, num_ranks: int, rank: int, virtual_stages: int
) -> tuple[int, ...]:
    """The stages that `rank` holds, in the order of the model."""
    if placement == "bidirectional":
        return tuple(sorted({rank, num_ranks - 1 - rank}))
    return tuple(
        turn * num_ranks + (num_ranks - 1 - rank if placement == "v" and turn % 2 else rank)
        for turn in range(virtual_stages)
    )
