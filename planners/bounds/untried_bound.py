"""Lower bound over the unevaluated variants of a row."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from parplan.planners.bounds.box_bounds import divided
from parplan.planners.costs.goal import IMPOSSIBLE
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.variants import Box
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.plan import Plan


class Tried(NamedTuple):
    """Plans of the space that a search has evaluated."""

    space: Space
    box_floors: Mapping[tuple[int, Box], float]
    """What the variants of a row in a box are at least."""
    trials: Mapping[Plan, object]
    """What was evaluated."""
    ruled_out: Callable[[Plan, float], bool]
    """Whether a plan is known to be no better than a key."""


def open_floor(
    tried: Tried, row: int, box: Box | None, floor: float, key: float, *, untried: bool = False
) -> float:
    """The least floor of the variants that may be better than `key`; infinite if there is none.

    `untried`: of those alone that were not evaluated. `box`: in which they are, each with at least
    `floor`; None: the plan of the row alone.
    """
    if floor >= key:
        return IMPOSSIBLE
    parts = [] if box is None else divided(box)
    if box is None or not parts:
        plan = tried.space.row(row) if box is None else tried.space.only(row, box)
        known = untried and plan in tried.trials
        return IMPOSSIBLE if known or tried.ruled_out(plan, key) else floor
    floors = [tried.box_floors.get((row, part)) for part in parts]
    if floors[0] is None and math.prod(map(len, box)) > len(tried.trials):
        # Most of these were never asked about.
        return floor
    return min(
        open_floor(tried, row, part, max(floor, own or floor), key, untried=untried)
        for part, own in zip(parts, floors, strict=True)
    )


def nothing_open(tried: Tried, floors: Floats, key: float) -> bool:
    """Whether no plan of the space can be better than `key`; `floors`: of its rows."""
    space = tried.space
    return all(
        open_floor(tried, row, space.box(row), float(floors[row]), key) == IMPOSSIBLE
        for row in np.flatnonzero(floors < key).tolist()
    )


def least_open(tried: Tried, floors: Floats, key: float) -> float:
    """Lower bound over the unevaluated plans: `key`, or their least lower bound."""
    least, below = key, np.flatnonzero(floors < key)
    for row in below[np.argsort(floors[below], kind="stable")].tolist():
        if floors[row] >= least:
            break
        box = tried.space.box(row)
        least = min(least, open_floor(tried, row, box, float(floors[row]), least, untried=True))
    return least
