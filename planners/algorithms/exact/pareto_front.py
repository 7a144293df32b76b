"""The front of step time and memory, proven: every plan that no other one beats in both.

Branch and bound with two goals: plans are tried in the order of a lower bound on their step time,
and one is left out where a plan that was found takes no longer than its bound and needs no more
memory than it does at least.
"""

from random import Random

import numpy as np

from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.space import Space


def pareto_front(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate every plan that may be on the front; `objectives.pareto` has it."""
    bounds, least = evaluate.space_bounds(), evaluate.space_memory()
    found: list[tuple[float, float]] = []
    for row in np.argsort(bounds, kind="stable").tolist():
        if _beaten(found, bounds[row], least[row]):
            continue
        evaluate.rule_out_alike(space.row(row))
        if bounds[row] == IMPOSSIBLE:
            continue
        # What bounds a row bounds each of its variants.
        for plan in space.variants(row):
            needed = evaluate.peak_bytes(plan)
            if evaluate.fits(plan) and not _beaten(found, bounds[row], needed):
                trial = evaluate(plan)
                found.append((trial.step_s or IMPOSSIBLE, needed))
    if not found:
        # Nothing fits: the record should say of a plan why not.
        evaluate(evaluate.leanest())


def _beaten(found: list[tuple[float, float]], step_s: float, memory_bytes: float) -> bool:
    return any(a <= step_s and b <= memory_bytes for a, b in found)
