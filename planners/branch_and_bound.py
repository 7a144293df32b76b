"""Best-first branch and bound: the fastest plan, proven, from few evaluations.

Land and Doig 1960 (Econometrica 28). Plans are tried in the order of a lower bound on their step
time (`parplan.planners.bound`); once the next bound is not below the best time, no plan is better.
"""

from random import Random

from parplan.planners.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.space import Space


def branch_and_bound(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate the plans that fit, the most promising first, until none can be better."""
    plans = list(space)
    bounds = evaluate.bounds(plans)
    best_s = IMPOSSIBLE
    for number in sorted(range(len(plans)), key=bounds.__getitem__):
        if bounds[number] >= best_s:
            break
        if evaluate.fits(plans[number]):
            best_s = min(best_s, evaluate(plans[number]).step_s or IMPOSSIBLE)
    if best_s == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(plans[0])
