"""Durations of stages and actions in picoseconds, as the SimPy engine uses them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parplan.sim.costs import StageCosts
from parplan.sim.programs.arrays import ActionArrays
from parplan.sim.programs.instructions import OPS
from parplan.sim.step.shared_links import Pair
from parplan.sim.ticks import to_ps


class StageWork(NamedTuple):
    """Work of a stage beside its actions."""

    first_gradient: dict[str, int]
    """Durations of the first B or W of the step."""
    reduce: int
    buckets: int
    reduce_each: bool
    optimizer: int
    gather: int
    latency: int
    overlap_share: float


class StageAction(NamedTuple):
    """An action of one stage, and its messages."""

    duration: int
    makes_gradient: bool
    """Of the weights."""
    forward: bool
    receives: bool
    to_stage: int
    pair: Pair | None
    """The ranks that its message goes from and to; None if it makes none."""
    send: int
    latency: int


StageActions = list[dict[str, StageAction]]
"""By stage and op."""


def stage_work(cost: StageCosts) -> StageWork:
    """Work of a stage with these costs beside its actions."""
    extra = cost.first_gradient_extra_s
    return StageWork(
        {op: to_ps(max(cost.action_s(op) + extra, 0.0)) for op in "BW"},
        to_ps(cost.reduce_s),
        cost.reduce_buckets,
        cost.reduce_each_micro_batch,
        to_ps(cost.optimizer_s),
        to_ps(cost.gather_s),
        to_ps(cost.latency_s),
        cost.overlap_share,
    )


def works_of_micro_batches(lists: ActionArrays, costs: Sequence[StageCosts]) -> list[StageActions]:
    """For every micro-batch what its actions are; one object for those that take the same ranks."""
    ranks = np.zeros((lists.num_micro_batches, lists.num_stages), dtype=np.int32)
    ranks[lists.micro_batch, lists.stage] = lists.rank()
    ways, way = np.unique(ranks, axis=0, return_inverse=True)
    known = [
        [{op: _work(s, op, costs[s], rank_of) for op in OPS} for s in range(len(costs))]
        for rank_of in ways.tolist()
    ]
    return [known[w] for w in way.reshape(-1).tolist()]


def _work(stage: int, op: str, cost: StageCosts, rank_of: Sequence[int]) -> StageAction:
    from_stage, to_stage = (stage - 1, stage + 1) if op == "F" else (stage + 1, stage - 1)
    stages = range(len(rank_of))
    has_messages = op != "W"
    makes = has_messages and to_stage in stages
    return StageAction(
        to_ps(max(cost.action_s(op), 0.0)),
        op in "BW",
        op == "F",
        has_messages and from_stage in stages,
        to_stage,
        (rank_of[stage], rank_of[to_stage]) if makes else None,
        to_ps(cost.send_s),
        to_ps(cost.latency_s),
    )
