"""Cutting a model into pipeline stages.

A model is a chain of layers: each takes what the one before returns. The blocks in the middle are
what a plan counts; layers before them (embedding) belong to the first stage, layers after them
(head) to the last.
"""

from collections.abc import Sequence

from torch import nn

from parplan.backend.models.recompute import recomputed
from parplan.errors import ParplanError
from parplan.sim.plan import Plan


def cut(
    layers: Sequence[nn.Module], plan: Plan, num_first: int = 1, num_last: int = 1
) -> list[nn.Sequential]:
    """The stages of `plan` as modules, made of the layers themselves (nothing is copied).

    The first `num_first` layers go with the first stage and the last `num_last` with the last one,
    beside the blocks that the plan gives them; 0 and 0 for a chain of blocks alone. The blocks, not
    these, are recomputed as the plan says. Raises `ParplanError` for a chain that the plan does not
    fit: too few blocks, a stage without layers.
    """
    num_blocks = len(layers) - num_first - num_last
    if min(num_first, num_last) < 0 or num_blocks < 1:
        raise ParplanError(
            f"layers: {num_first} before and {num_last} after the blocks leave no block "
            f"of {len(layers)} layers"
        )
    counts = _blocks_of_stages(plan, num_blocks)
    blocks = iter(layers[num_first : num_first + num_blocks])
    stages = [
        [
            recomputed(
                next(blocks), plan.recomputation if i < plan.recomputed_of(stage, n) else "none"
            )
            for i in range(n)
        ]
        for stage, n in enumerate(counts)
    ]
    stages[0] = [*layers[:num_first], *stages[0]]
    stages[-1] = [*stages[-1], *layers[num_first + num_blocks :]]
    for index, stage in enumerate(stages):
        if not stage:
            raise ParplanError(f"plan: stage {index} has no layers (stage_layers {counts})")
    return [nn.Sequential(*stage) for stage in stages]


def _blocks_of_stages(plan: Plan, num_blocks: int) -> tuple[int, ...]:
    if plan.stage_layers is None and plan.total_stages > num_blocks:
        raise ParplanError(
            f"plan: {plan.total_stages} stages, but the model has {num_blocks} blocks"
        )
    counts = plan.layers_of_stages(num_blocks)
    if sum(counts) != num_blocks:
        raise ParplanError(
            f"plan: stage_layers sum to {sum(counts)}, but the model has {num_blocks} blocks"
        )
    return counts
