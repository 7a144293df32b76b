"""Interleaved 1F1B: several stages per rank, alternately forward and backward.

Narayanan et al. 2021 (arXiv:2104.04473, section 2.2): the bubble shrinks by the number of virtual
stages, for as many times the messages.
"""

from collections.abc import Iterator

from parplan.sim.programs.instructions import Action, RankActions, Schedule
from parplan.sim.schedules.limits import check_group, default_group


def interleaved_1f1b(
    num_ranks: int, num_micro_batches: int, virtual_stages: int, group_size: int | None = None
) -> Schedule:
    """Depth first: `group_size` micro-batches go through a chunk before the next chunk's turn.

    Without `group_size` it is torch's m / max(1, m // p), which is Megatron's p where p divides m;
    another one is Megatron's microbatch_group_size_per_vp_stage. Raises `ParplanError` unless the
    last group is whole or, as Megatron demands, not smaller than the number of ranks.
    """
    group = group_size or default_group(num_ranks, num_micro_batches)
    check_group(num_ranks, num_micro_batches, group)
    return tuple(
        _rank(rank, num_ranks, num_micro_batches, virtual_stages, group)
        for rank in range(num_ranks)
    )


def warm_up(rank: int, num_ranks: int, virtual_stages: int, group: int, hop: int) -> int:
    """Forwards ahead of the alternating ones.

    The last rank runs all but its last chunk for one group, and every rank before it `hop` more.
    """
    return (virtual_stages - 1) * group + hop * (num_ranks - 1 - rank)


def chunk_order(
    num_micro_batches: int, virtual_stages: int, group: int, backward: bool
) -> Iterator[tuple[int, int]]:
    """(chunk, micro-batch) in the order of the forwards, or of the backwards, of every rank."""
    chunks = range(virtual_stages)[:: -1 if backward else 1]
    for first in range(0, num_micro_batches, group):
        for chunk in chunks:
            for micro_batch in range(first, min(first + group, num_micro_batches)):
                yield chunk, micro_batch


def _rank(
    rank: int, num_ranks: int, num_micro_batches: int, virtual_stages: int, group: int
) -> RankActions:
    order = num_micro_batches, virtual_stages, group
    forwards = [Action(c * num_ranks + rank, "F", m) for c, m in chunk_order(*order, False)]
    backwards = [Action(c * num_ranks + rank, "B", m) for c, m in chunk_order(*order, True)]
    first = min(warm_up(rank, num_ranks, virtual_stages, group, hop=2), len(forwards))
    steady = zip(forwards[first:], backwards, strict=False)
    alternating = [action for pair in steady for action in pair]
    return (*forwards[:first], *alternating, *backwards[len(forwards) - first :])
