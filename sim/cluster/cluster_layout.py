"""Mapping of cluster ranks to replicas of a plan, with slowdown factors.

A replica here is one pipeline: the tensor- and context-parallel ranks of each of its stages
exchange messages in every layer, so they go as fast as the slowest of them. Where experts are
spread over several replicas, these exchange messages in every layer too, and keep step with each
other.
"""

from collections.abc import Mapping
from math import inf, lcm

from parplan.errors import ParplanError
from parplan.hardware.network.placement import Placement
from parplan.sim.plan import Plan

Slowdowns = tuple[float, ...]
"""By pipeline rank: how many times as long its computations take."""


def default_placement(plan: Plan) -> Placement:
    """Tensor parallelism innermost, then context, data and pipeline parallelism."""
    return Placement(
        order=("tensor", "context", "data", "pipeline"),
        sizes=(
            plan.tensor_parallel,
            plan.context_parallel,
            plan.data_parallel,
            plan.num_stages,
        ),
    )


def check_placement(placement: Placement, plan: Plan) -> None:
    """Raise `ParplanError` unless every axis has the size that `plan` says."""
    expected = default_placement(plan)
    for axis, size in zip(expected.order, expected.sizes, strict=True):
        if placement.size(axis) != size:
            raise ParplanError(
                f"placement: {axis} has {placement.size(axis)} ranks, but the plan has {size}"
            )
    if placement.num_ranks != expected.num_ranks:
        raise ParplanError(f"placement: {placement.num_ranks} ranks, not {expected.num_ranks}")


def replica_slowdowns(
    plan: Plan, placement: Placement, slowdown: Mapping[int, float]
) -> list[Slowdowns]:
    """The factors of every replica; `slowdown`: those of single ranks, 1 for all others.

    Raises `ParplanError` for a rank that there is not, or a factor that is not positive.
    """
    members = plan.tensor_parallel * plan.context_parallel
    block = members
    if plan.expert_parallel > 1:
        split = plan.expert_tensor_parallel or plan.tensor_parallel
        block = lcm(members, plan.expert_parallel * split)
    factors: dict[tuple[int, int], list[float]] = {}
    for rank, factor in slowdown.items():
        if not 0 <= rank < placement.num_ranks:
            raise ParplanError(
                f"slowdown: rank {rank}: the plan has ranks 0 to {placement.num_ranks - 1}"
            )
        if not 0 < factor < inf:
            raise ParplanError(f"slowdown: rank {rank}: must be positive, got {factor}")
        at = placement.coordinates_of(rank)
        first = at.get("data", 0) * members // block * block // members
        for replica in range(first, first + block // members):
            factors.setdefault((replica, at.get("pipeline", 0)), []).append(factor)
    slowest = {
        place: max(given if len(given) == block else [*given, 1.0])
        for place, given in factors.items()
    }
    return [
        tuple(slowest.get((replica, rank), 1.0) for rank in range(plan.num_stages))
        for replica in range(plan.data_parallel)
    ]
