"""Beam search: greedy descent from several plans side by side."""

from random import Random

from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space

WIDTH = 4
STARTS = 16


def beam(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Try all neighbours of the best few plans until none is better; then begin elsewhere."""
    while True:
        starts = evaluate.many(space.sample(rng) for _ in range(STARTS))
        kept = sorted({t.plan: t for t in starts}.values(), key=evaluate.energy)[:WIDTH]
        seen = {trial.plan for trial in starts}
        while True:
            near = dict.fromkeys(n for trial in kept for n in space.neighbours(trial.plan))
            new = evaluate.many(plan for plan in near if plan not in seen)
            seen.update(near)
            better = sorted([*kept, *new], key=evaluate.energy)[:WIDTH]
            if better == kept:
                break
            kept = better
