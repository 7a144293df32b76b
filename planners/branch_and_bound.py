"""Best-first branch and bound: the fastest plan, proven, from few evaluations.

Land and Doig 1960 (Econometrica 28). Plans are tried in the order of a lower bound on their step
time (`parplan.planners.bound`); once the next bound is not below the best time, no plan is better.
"""

from random import Random

import numpy as np

from parplan.planners.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.space import Space


def branch_and_bound(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate the plans that fit, the most promising first, until none can be better."""
    bounds = evaluate.space_bounds()
    best_s = IMPOSSIBLE
    for number in np.argsort(bounds, kind="stable").tolist():
        if bounds[number] == IMPOSSIBLE:
            continue
        if bounds[number] >= best_s:
            break
        plan = space[number]
        evaluate.rule_out_alike(plan)
        if bounds[number] < IMPOSSIBLE:
            best_s = min(best_s, evaluate(plan).step_s or IMPOSSIBLE)
    if best_s == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(space[0])
