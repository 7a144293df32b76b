"""Interleaved zero bubble: ZB-H1 (Qi et al. 2023, arXiv:2401.10241) with several stages per rank.

The order is that of torch's ScheduleInterleavedZeroBubble.
"""

from parplan.sim.programs.instructions import Action, RankActions, Schedule
from parplan.sim.schedules.interleaved import chunk_order, warm_up
from parplan.sim.schedules.limits import check_group, default_group


def interleaved_zb(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> Schedule:
    """Interleaved 1F1B with half the warm-up per rank, and weight gradients that come late.

    Raises `ParplanError` unless the micro-batches make equal rounds.
    """
    group = default_group(num_ranks, num_micro_batches)
    check_group(num_ranks, num_micro_batches, group)
    return tuple(
        _rank(rank, num_ranks, num_micro_batches, virtual_stages, group)
        for rank in range(num_ranks)
    )


def _rank(
    rank: int, num_ranks: int, num_micro_batches: int, virtual_stages: int, group: int
) -> RankActions:
    order = num_micro_batches, virtual_stages, group
    forwards = [(c * num_ranks + rank, m) for c, m in chunk_order(*order, False)]
    backwards = [(c * num_ranks + rank, m) for c, m in chunk_order(*order, True)]
    total = len(forwards)
    first = min(warm_up(rank, num_ranks, virtual_stages, group, hop=1), total)
    actions = [Action(stage, "F", m) for stage, m in forwards[:first]]
    for place, (stage, m) in enumerate(backwards):
        if first + place < total:
            actions.append(Action(forwards[first + place][0], "F", forwards[first + place][1]))
        actions.append(Action(stage, "I", m))
        if place >= rank:  # rank r is r weight gradients late, as in ZB-H1
            actions.append(Action(backwards[place - rank][0], "W", backwards[place - rank][1]))
    late = backwards[max(0, total - rank) :]
    return (*actions, *(Action(stage, "W", m) for stage, m in late))
