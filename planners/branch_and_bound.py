"""Best-first branch and bound: the best plan, proven, from few evaluations.

Land and Doig 1960 (Econometrica 28). Plans are tried in the order of a lower bound on their step
time (`parplan.planners.bound`), or on their memory where that is the goal; once the next bound is
not below the best, no plan is better.
"""

from random import Random

import numpy as np

from parplan.planners.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.space import Space


def branch_and_bound(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate the plans that fit, the most promising first, until none can be better."""
    floors = evaluate.space_floors()
    best = IMPOSSIBLE
    for number in np.argsort(floors, kind="stable").tolist():
        if floors[number] == IMPOSSIBLE:
            continue
        if floors[number] >= best:
            break
        plan = space[number]
        evaluate.rule_out_alike(plan)
        if floors[number] < IMPOSSIBLE:
            best = min(best, evaluate.goal.key(evaluate(plan)))
    if best == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(space[0])
