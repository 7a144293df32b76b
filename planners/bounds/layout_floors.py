"""Lower bounds on the steps of all plans of a layout, before any of them is looked at."""

from collections.abc import Iterator

import numpy as np

from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.spaces.layouts import LayoutGroup
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.plan import Plan, with_values

SLACK = 1 - 1e-6
"""What sums in another order, and rounding every action to picoseconds, may add."""


_ONE_STAGE = {"num_stages": 1, "virtual_stages": 1, "stage_layers": None, "schedule": "1f1b"}


def layout_floors(space: Space, parts: CostTables, limit_bytes: float) -> Floats:
    """Seconds that every plan of each group takes at least, shape [groups]; infinite for those
    whose ranks cannot hold all parameters.

    The slowest rank has at least its share of the work of all micro-batches and of the optimizer,
    and one micro-batch has to pass all stages forward and backward.
    """
    known: dict[tuple[object, ...], tuple[float, float]] = {}
    states: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    found = []
    for group in space.groups:
        key = group.layout._replace(num_stages=1), group.num_micro_batches > 1
        if key not in known:
            known[key] = _work(group, parts)
        work_s, chain_s = known[key]
        ranks = group.layout.num_stages
        degrees = group.layout.degrees
        if degrees not in states:
            states[degrees] = [_state(plan, parts) for plan in _of_one_stage(group, zero=True)]
        holding = [s for held, s in states[degrees] if held * SLACK <= limit_bytes * ranks]
        if not holding:
            found.append(np.inf)
            continue
        share_s = (group.num_micro_batches * work_s + min(holding)) / ranks
        found.append(max(share_s, chain_s) * SLACK)
    return np.array(found)


def _work(group: LayoutGroup, parts: CostTables) -> tuple[float, float]:
    """Seconds of one micro-batch over the whole model: all work, and what others wait for."""
    least = [parts.layers(plan)[:, :3].sum(axis=0) for plan in _of_one_stage(group, zero=False)]
    work_s = min(float(each.sum()) for each in least)
    return work_s, min(float(each[:2].sum()) for each in least)


def _state(plan: Plan, parts: CostTables) -> tuple[float, float]:
    """Bytes of the parameters and what belongs to them, and seconds of the optimizer."""
    return float(parts.states(plan)[:, :3].sum()), float(parts.parameters(plan)[:, 2].sum())


def _of_one_stage(group: LayoutGroup, *, zero: bool) -> Iterator[Plan]:
    """Plans of the group as if it had no pipeline: each ZeRO stage, or each other choice."""
    _, again, stages, sequences = group.radices
    chosen = (
        [(0, z, 0) for z in range(stages)]
        if zero
        else [(r, 0, s) for r in range(again) for s in range(sequences)]
    )
    for r, z, s in chosen:
        plan = group.plan((r * stages + z) * sequences + s)
        yield with_values(plan, _ONE_STAGE)
