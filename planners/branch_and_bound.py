"""Best-first branch and bound: the fastest plan, proven, from few evaluations.

Land and Doig 1960 (Econometrica 28). Plans are tried in the order of a lower bound on their step
time (`parplan.planners.bound`); once the next bound is not below the best time, no plan is better.
"""

from random import Random

import numpy as np

from parplan.planners.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.space import Space
from parplan.sim.plan import Plan
from parplan.sim.predict import schedule_key

TOGETHER = 8
"""So many plans with equal lists are evaluated in about the time of one."""


def branch_and_bound(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate the plans that fit, the most promising first, until none can be better."""
    bounds = evaluate.space_bounds()
    order = np.argsort(bounds, kind="stable").tolist()
    done: set[int] = set()
    best_s = IMPOSSIBLE
    for place, number in enumerate(order):
        if bounds[number] == IMPOSSIBLE or number in done:
            continue
        if bounds[number] >= best_s:
            break
        plan = space[number]
        evaluate.rule_out_alike(plan)
        if bounds[number] < IMPOSSIBLE:
            near = order[place : place + TOGETHER]
            alike = _alike(space, plan, [n for n in near if bounds[n] < best_s and n not in done])
            done.update(alike)
            trials = evaluate.many(alike.values())
            best_s = min(best_s, *(trial.step_s or IMPOSSIBLE for trial in trials))
    if best_s == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(space[0])


def _alike(space: Space, plan: Plan, numbers: list[int]) -> dict[int, Plan]:
    """The plans that share their lists with `plan`, by number."""
    plans = {number: space[number] for number in numbers}
    key = schedule_key(plan)
    return {number: other for number, other in plans.items() if schedule_key(other) == key}
