"""The plan of a space that comes closest to the memory of the devices, where none fits."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parplan.planners.spaces.space import Space
from parplan.planners.spaces.variants import Box
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.plan import Plan

MOST_LOOKED_AT, MOST_ROWS = 200, 20_000
"""Plans whose memory is computed, and rows of the space that they are chosen from."""


def leanest_plan(space: Space, least_bytes: Floats, peak_bytes: Callable[[Plan], float]) -> Plan:
    """The plan that needs the least memory of the most promising ones.

    least_bytes: a bound of each row of the space. It does not count how many micro-batches a
    schedule keeps, so that one plan of each layout and schedule is looked at.
    """
    order = np.argsort(least_bytes, kind="stable")[:MOST_ROWS].tolist()
    chosen: dict[tuple[object, ...], Plan] = {}
    for number in order:
        plan = _leanest_of_row(space, number)
        degrees = plan.num_stages, plan.tensor_parallel, plan.context_parallel
        key = *degrees, plan.expert_parallel, plan.batch_per_device, plan.schedule
        chosen.setdefault(key, plan)
        if len(chosen) == MOST_LOOKED_AT:
            break
    return min(chosen.values(), key=peak_bytes)


def _leanest_of_row(space: Space, number: int) -> Plan:
    """The variant of a row that recomputes, shards and moves to the host the most."""
    box = space.box(number)
    if box is None:
        return space.row(number)
    values = box._asdict() | {"gradient_dtype": box.gradient_dtype[:1]}
    most: dict[str, Any] = {
        name: (None if None in own else max(own),) for name, own in values.items()
    }
    return space.only(number, Box(**most))
