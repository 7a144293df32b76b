"""Grid search: the space in its order, first in wide steps, then in between."""

from random import Random

from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space


def grid(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Ask about every k-th plan for k = a power of two, then half of it, down to every plan.

    Whatever the budget, what was tried is spread evenly. Nothing depends on `rng`.
    """
    step = 1 << (len(space) - 1).bit_length()
    evaluate(space[0])
    while step > 1:
        evaluate.many(space[number] for number in range(step // 2, len(space), step))
        step //= 2
