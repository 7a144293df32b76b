"""Exhaustive search as a planner: every plan of the space, in its order."""

from random import Random

from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space


def all_plans(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Ask about every plan at once, so that those that share their lists are timed together."""
    evaluate.many(space)
