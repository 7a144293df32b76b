"""Markov chain Monte Carlo, as FlexFlow searches: Jia, Zaharia and Aiken 2018 (arXiv:1807.05358).

Section 6.2 there: a proposal replaces one random choice by a random one, and is accepted with
probability min(1, exp(beta (cost - proposed cost))), the Metropolis-Hastings rule. Here the choice
is a dimension of the plan, and costs are in parts of the current one. A chain that has found
nothing better for a while gives way to a new one, as FlexFlow's begin from several strategies.
"""

import math
from random import Random

from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.plan import Plan

BETA = 20.0
"""A plan 5% slower is accepted once in e times."""
FAR = 0.5
"""Share of the proposals that replace two choices: past plans that do not fit."""
PATIENCE = 100
"""Proposals without a better plan, after which a new chain begins."""


def mcmc(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Chains of proposals, one after the other."""
    names = [name for name, values in space.dimensions.items() if len(values) > 1]
    while True:
        plan = space.sample(rng)
        now = best = evaluate.energy(evaluate(plan))
        since = 0
        while names and since < PATIENCE:
            other = _proposal(space, plan, names, rng)
            if rng.random() < FAR:
                other = _proposal(space, other, names, rng)
            then = evaluate.energy(evaluate(other))
            if then <= now or rng.random() < math.exp(BETA * (now - then)):
                plan, now = other, then
            since = 0 if now < best else since + 1
            best = min(best, now)


def _proposal(space: Space, plan: Plan, names: list[str], rng: Random) -> Plan:
    name = rng.choice(names)
    value = rng.choice(space.dimensions[name])
    return space.nearest(point_of(plan).having(name, value), keep=name)
