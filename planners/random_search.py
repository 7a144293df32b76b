"""Random search: plans in random order, none of them twice."""

from random import Random

from parplan.planners.evaluator import Evaluator
from parplan.planners.space import Space

AT_ONCE = 32


def random_search(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Ask about plans, each as likely as any other that is left."""
    order = list(range(len(space)))
    rng.shuffle(order)
    for first in range(0, len(order), AT_ONCE):
        evaluate.many(space[number] for number in order[first : first + AT_ONCE])
