"""Random search: plans in random order, none of them twice."""

from collections.abc import Iterator
from itertools import islice
from random import Random

from parplan.planners.search.evaluator import Evaluator
from parplan.planners.search.limits import MOST_RECORDED
from parplan.planners.spaces.space import Space

AT_ONCE = 32


def random_search(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Ask about plans, each as likely as any other that is left."""
    order = shuffled(len(space), rng)
    while some := list(islice(order, AT_ONCE)):
        evaluate.many(space[number] for number in some)


def shuffled(count: int, rng: Random) -> Iterator[int]:
    """The numbers below `count` in random order; of very many, in the memory of those drawn."""
    if count <= MOST_RECORDED:
        order = list(range(count))
        rng.shuffle(order)
        yield from order
        return
    # Fisher and Yates: what a place held before it was drawn from is kept of these places alone.
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        place = rng.randrange(last + 1)
        yield moved.get(place, place)
        moved[place] = moved.pop(last, last)
