"""An evolutionary algorithm: tournaments, uniform crossover, and moves as mutations."""

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


def evolution(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Generations of children; the best of them and of their parents live on."""
    alive = evaluate.many(space.sample(rng) for _ in range(POPULATION))
    while True:
        children = [_child(space, evaluate, alive, rng) for _ in range(POPULATION - STRANGERS)]
        children += [space.sample(rng) for _ in range(STRANGERS)]
        together = {trial.plan: trial for trial in [*alive, *evaluate.many(children)]}
        alive = sorted(together.values(), key=evaluate.energy)[:POPULATION]


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
