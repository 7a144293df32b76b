"""Best-first branch and bound: the best plan, proven, from few evaluations.

Land and Doig 1960 (Econometrica 28). Plans are tried in the order of a lower bound on their step
time (`parplan.planners.bounds.schedule_bounds`), or on their memory where that is the goal; once
the next bound is not below the best, no plan is better. All variants of a plan are bounded
together; where that bound is below the best, they are divided, and each part is bounded, until one
variant is left.
"""

from heapq import heappop, heappush
from random import Random

import numpy as np

from parplan.planners.bounds.box_bounds import divided
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.variants import Box


def branch_and_bound(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate the plans that fit, the most promising first, until none can be better."""
    floors = evaluate.space_floors()
    waiting = _Waiting(space, evaluate)
    for row in np.argsort(floors, kind="stable").tolist():
        floor = floors[row]
        if floor == IMPOSSIBLE:
            continue
        waiting.work_off(floor)
        if floor >= waiting.best:
            break
        evaluate.rule_out_alike(space.row(row))
        if floors[row] < IMPOSSIBLE:
            waiting.add(floor, row, space.box(row))
    waiting.work_off(IMPOSSIBLE)
    if waiting.best == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(evaluate.leanest())


class _Waiting:
    """Boxes of variants that may hold a better plan, the one with the least bound first."""

    def __init__(self, space: Space, evaluate: Evaluator) -> None:
        self.best = IMPOSSIBLE
        self._space = space
        self._evaluate = evaluate
        self._count = 0
        self._heap: list[tuple[float, int, int, Box | None]] = []

    def add(self, floor: float, row: int, box: Box | None) -> None:
        """None: the plan of the row alone."""
        self._count += 1
        heappush(self._heap, (floor, self._count, row, box))

    def work_off(self, floor: float) -> None:
        """Try or divide all whose bound is at most `floor`, and that may be better."""
        while self._heap and self._heap[0][0] <= floor and self._heap[0][0] < self.best:
            _, _, row, box = heappop(self._heap)
            parts = [] if box is None else divided(box)
            if not parts:
                self._try(row, box)
                continue
            for bound, part in zip(self._evaluate.box_floors(row, parts), parts, strict=True):
                if bound < self.best:
                    self.add(bound, row, part)

    def _try(self, row: int, box: Box | None) -> None:
        plan = self._space.row(row) if box is None else self._space.only(row, box)
        if self._evaluate.fits(plan):
            self.best = min(self.best, self._evaluate.goal.key(self._evaluate(plan)))
