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
    box_lower_bounds: Mapping[tuple[int, Box], float]
    """What the variants of a row in a box are at least."""
    trials: Mapping[Plan, object]
    """What was evaluated."""
    ruled_out: Callable[[Plan, float], bool]
    """Whether a plan is known to be no better than a key."""


def open_lower_bound(
    tried: Tried,
    row: int,
    box: Box | None,
    lower_bound: float,
    key: float,
    *,
    untried: bool = False,
) -> float:
    """The least lower bound of variants that may be better than `key`; infinite if there is none.

    `untried`: of those alone that were not evaluated. `box`: in which they are, each with at least
    `lower_bound`; None: the plan of the row alone.
    """
    if lower_bound >= key:
        return IMPOSSIBLE
    parts = [] if box is None else divided(box)
    if box is None or not parts:
        plan = tried.space.row(row) if box is None else tried.space.only(row, box)
        known = untried and plan in tried.trials
        return IMPOSSIBLE if known or tried.ruled_out(plan, key) else lower_bound
    lower_bounds = [tried.box_lower_bounds.get((row, part)) for part in parts]
    if lower_bounds[0] is None and math.prod(map(len, box)) > len(tried.trials):
        # Most of these were never asked about.
        return lower_bound
    return min(
        open_lower_bound(
            tried, row, part, max(lower_bound, own or lower_bound), key, untried=untried
        )
        for part, own in zip(parts, lower_bounds, strict=True)
    )


def nothing_open(tried: Tried, lower_bounds: Floats, key: float) -> bool:
    """Whether no plan of the space can be better than `key`; `lower_bounds`: of its rows."""
    space = tried.space
    return all(
        open_lower_bound(tried, row, space.box(row), float(lower_bounds[row]), key) == IMPOSSIBLE
        for row in np.flatnonzero(lower_bounds < key).tolist()
    )


def least_open(tried: Tried, lower_bounds: Floats, key: float) -> float:
    """Lower bound over the unevaluated plans: `key`, or their least lower bound."""
    least, below = key, np.flatnonzero(lower_bounds < key)
    for row in below[np.argsort(lower_bounds[below], kind="stable")].tolist():
        if lower_bounds[row] >= least:
            break
        box = tried.space.box(row)
        least = min(
            least, open_lower_bound(tried, row, box, float(lower_bounds[row]), least, untried=True)
        )
    return least
