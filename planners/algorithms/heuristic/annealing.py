"""Simulated annealing: Kirkpatrick, Gelatt and Vecchi 1983 (Science 220)."""

import math
from random import Random

from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space

HOT, COLD = 0.3, 0.003
"""Temperatures at the begin and the end: a plan this much slower is accepted once in e times."""
FAR = 0.3
"""Share of the moves that are two in one: past plans that do not fit."""
PATIENCE = 60
"""Moves without a new plan being accepted, after which the walk begins elsewhere."""


def annealing(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Walk to a random neighbour when it is faster, or by chance, less and less often."""
    while True:
        plan = space.sample(rng)
        now = evaluate.energy(evaluate(plan))
        moves = space.neighbours(plan)
        refused = 0
        while moves and refused < PATIENCE:
            other = rng.choice(moves)
            if rng.random() < FAR:
                other = rng.choice(space.neighbours(other))
            then = evaluate.energy(evaluate(other))
            temperature = HOT * (COLD / HOT) ** evaluate.share_used
            if then <= now or rng.random() < math.exp((now - then) / temperature):
                refused = 0 if then != now else refused + 1
                plan, now, moves = other, then, space.neighbours(other)
            else:
                refused += 1
