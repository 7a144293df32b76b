"""An evolutionary algorithm: tournaments, uniform crossover, and moves as mutations."""

from math import isfinite
from random import Random

from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Point, Space, point_of
from parplan.sim.plan import Plan

POPULATION = 24
MUTATED = 0.7
"""Share of the children that make a random move."""
STRANGERS = 2
"""Random plans in every generation, so that none is out of reach."""
DRAWN = 16
"""Plans that are drawn by chance for each of the first generation: of these, half have the least
bounds, which take no evaluation."""


def evolution(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Generations of children; the best of them and of their parents live on."""
    alive = evaluate.many(promising(space, evaluate, rng))
    while True:
        children = [_child(space, evaluate, alive, rng) for _ in range(POPULATION - STRANGERS)]
        children = repaired(children, space, evaluate, rng)
        children += [space.sample(rng) for _ in range(STRANGERS)]
        together = {trial.plan: trial for trial in [*alive, *evaluate.many(children)]}
        alive = sorted(together.values(), key=evaluate.energy)[:POPULATION]


def promising(space: Space, evaluate: Evaluator, rng: Random) -> list[Plan]:
    """The first generation.

    Half of it has the least bounds of many plans drawn at random; the other half are those of the
    rest that were drawn first and may fit.
    """
    drawn = list(dict.fromkeys(space.sample(rng) for _ in range(DRAWN * POPULATION)))
    bounds = dict(zip(drawn, evaluate.bounds(drawn), strict=True))
    best = sorted(drawn, key=lambda plan: bounds[plan])[: POPULATION // 2]
    chosen = dict.fromkeys(best)
    rest = [plan for plan in drawn if plan not in chosen]
    rest.sort(key=lambda plan: not isfinite(bounds[plan]))
    return [*best, *rest[: POPULATION - len(best)]]


def repaired(children: list[Plan], space: Space, evaluate: Evaluator, rng: Random) -> list[Plan]:
    """The children, those that cannot fit replaced by random moves that may.

    Whether a plan may fit is said by its bounds; a child without such a move stays.
    """
    bounds = evaluate.bounds(children)
    return [
        child if isfinite(bound) else _moved(child, space, evaluate, rng)
        for child, bound in zip(children, bounds, strict=True)
    ]


def _moved(plan: Plan, space: Space, evaluate: Evaluator, rng: Random) -> Plan:
    """A random move of a plan that may fit; the plan where there is none."""
    moves = space.neighbours(plan)
    may = [move for move, b in zip(moves, evaluate.bounds(moves), strict=True) if isfinite(b)]
    return rng.choice(may) if may else plan


def _child(space: Space, evaluate: Evaluator, alive: list[Trial], rng: Random) -> Plan:
    one, two = (min(rng.choices(alive, k=3), key=evaluate.energy).plan for _ in range(2))
    child = space.nearest(crossed(point_of(one), point_of(two), rng))
    moves = space.neighbours(child)
    return rng.choice(moves) if moves and rng.random() < MUTATED else child


def crossed(one: Point, two: Point, rng: Random) -> Point:
    """Uniform crossover: each dimension is that of one of them, both as likely."""
    child = one
    for name, value in two.values().items():
        if rng.random() < 0.5:
            child = child.having(name, value)
    return child
