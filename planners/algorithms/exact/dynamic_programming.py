"""Dynamic programming over the cuts between stages, for every division of the devices.

As PipeDream (Narayanan et al. 2019, SOSP) and the inter-operator pass of Alpa (Zheng et al. 2022,
arXiv:2201.12023, section 5.2) have it: the slowest stage of m micro-batches sets the pace, so the
cuts make it as fast as can be, with no stage that exceeds its memory. All stages have meshes of one
size here (tensor times data parallelism), so the devices are allocated by the layout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from random import Random

import numpy as np

from parplan.planners.algorithms.exact.split import descend
from parplan.planners.bounds.stage_memory import StageSize, StageTables
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.space import Space
from parplan.sim.plan import Plan


def dynamic_programming(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Cut every plan of the space as well as possible, the most promising first.

    Where the space has no uneven stages, the even ones are tried. Nothing depends on `rng`.
    """
    lower_bounds = evaluate.uneven_lower_bounds()
    best = IMPOSSIBLE
    for row in promising(space, evaluate):
        if lower_bounds[row] >= best:
            continue
        for plan in _cut(space, space.row(row), evaluate.memory_limit_bytes):
            trial = evaluate(plan)
            if plan.stage_layers is not None and evaluate.goal.key(trial) < best:
                # The slowest stage is not all that counts.
                trial = descend(evaluate, trial, space.workload.model.num_layers)
            best = min(best, evaluate.goal.key(trial))
    if best == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(evaluate.leanest())


def promising(space: Space, evaluate: Evaluator) -> list[int]:
    """The rows that may fit, in the order of their bounds.

    By the bound of the even plan, and in turn with these by the bound of all uneven plans, as the
    even one may not fit or may be far from them.
    """
    lower_bounds = evaluate.uneven_lower_bounds()
    orders = [np.argsort(lower_bounds, kind="stable").tolist()]
    if space.constraints.is_uneven:
        even = evaluate.space_lower_bounds()
        by_even = np.argsort(even, kind="stable").tolist()
        orders = [[row for row in by_even if even[row] < IMPOSSIBLE], *orders]
    turns = (row for turn in zip_longest(*orders) for row in turn if row is not None)
    return [row for row in dict.fromkeys(turns) if lower_bounds[row] < IMPOSSIBLE]


def _cut(space: Space, plan: Plan, limit_bytes: float) -> Iterator[Plan]:
    """The even plan, and the plan with the best cuts where there are any."""
    yield plan
    if plan.total_stages == 1 or not space.constraints.uneven_stages:
        return
    tables = StageTables(space.workload, space.cluster, plan)
    layers = best_cuts(tables, space.workload.model.num_layers, limit_bytes)
    if layers is not None and layers != plan.layers_of_stages(sum(layers)):
        yield replace(plan, stage_layers=layers)


def best_cuts(tables: StageTables, num_blocks: int, limit_bytes: float) -> tuple[int, ...] | None:
    """Blocks of each stage so that the slowest one is fastest; None where no cuts fit.

    Every stage gets at least one block. Ranks that have several stages are not held to the limit
    here. O(stages x blocks^2), exact.
    """
    stages = tables.plan.total_stages
    alone = tables.plan.virtual_stages == 1
    best: Sequence[float] = [0.0] + [IMPOSSIBLE] * num_blocks
    cuts: list[list[int]] = []
    for stage in range(stages):
        row, cut = [IMPOSSIBLE] * (num_blocks + 1), [0] * (num_blocks + 1)
        last = stage == stages - 1
        ends = [num_blocks] if last else range(stage + 1, num_blocks - (stages - stage - 2))
        for end in ends:
            for first in range(end - 1, stage - 1, -1):
                size = StageSize(stage, first, end)
                seconds = tables.seconds(size)
                too_large = alone and tables.peak_bytes(size) > limit_bytes
                if seconds >= row[end] or too_large:
                    # With more blocks it takes longer, and needs more.
                    break
                if max(best[first], seconds) < row[end]:
                    row[end], cut[end] = max(best[first], seconds), first
        best = row
        cuts.append(cut)
    if best[num_blocks] == IMPOSSIBLE:
        return None
    sizes, end = [], num_blocks
    for cut in reversed(cuts):
        sizes.append(end - cut[end])
        end = cut[end]
    return tuple(reversed(sizes))
