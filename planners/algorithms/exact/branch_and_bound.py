"""Best-first branch and bound: the best plan, proven, from few evaluations.

Land and Doig 1960 (Econometrica 28). Plans are tried in the order of a lower bound on their step
time (`parplan.planners.bounds.schedule_bounds`), or on their memory where that is the goal; once
the next bound is not below the best, no plan is better. All variants of a plan are bounded
together; where that bound is below the best, they are divided, and each part is bounded, until one
variant is left.

With a gap in the budget, a long search ends where no more than that share can be gained. With
`near`, plans that are about as good as the best are evaluated afterwards, some of them.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random

import numpy as np

from parplan.planners.bounds.box_bounds import divided
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.variants import Box
from parplan.sim.plan import Plan

FIRST, MOST = 2, 16
"""Layouts whose plans are bounded together, of the most promising ones and later."""

BEFORE_GAP = 200_000
"""Bounds that are asked for in any case before a gap ends a search: short ones end with a proof."""

MOST_NEAR, MOST_NEAR_BOUNDS = 20, 20_000
"""Plans that are evaluated because they are near the best, and bounds that this may take."""

PROMISING, MOST_PROBES = 0.98, 4
"""Share of the best below which a bound is worth a dive, and dives after each opening."""

LONGEST_DIVE = 500
"""Parts that are looked at below the most promising one before another one is."""

_Part = tuple[float, int, int, Box | None, bool]
"""Lower bound, number, row of the space, box of its variants, and whether its lists are new."""


def branch_and_bound(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Evaluate the plans that fit, the most promising first, until none can be better."""
    waiting = _Waiting(space, evaluate)
    for plan in evaluate.budget.first:
        waiting.try_plan(plan)
    if evaluate.goal.bounded_by == "memory":
        lower_bounds = evaluate.space_lower_bounds()
        for row in np.argsort(lower_bounds, kind="stable").tolist():
            if lower_bounds[row] < IMPOSSIBLE:
                waiting.add_row(float(lower_bounds[row]), row)
    else:
        _open_layouts(evaluate, waiting)
    waiting.work_off(IMPOSSIBLE)
    if waiting.best == IMPOSSIBLE:
        # Nothing fits: the record should say of a plan why not.
        evaluate(evaluate.leanest())
    elif evaluate.budget.near:
        waiting.work_off_near()


def _open_layouts(evaluate: Evaluator, waiting: "_Waiting") -> None:
    """Bound the plans of one layout after the other, until no layout has a better plan."""
    lower_bounds = evaluate.layouts.of_layouts
    order = np.argsort(lower_bounds, kind="stable").tolist()
    begin, count = 0, FIRST
    while begin < len(order):
        waiting.work_off(float(lower_bounds[order[begin]]))
        chosen = [n for n in order[begin : begin + count] if lower_bounds[n] < waiting.enough]
        if not chosen:
            return
        for lower_bound, row in evaluate.open_layouts(chosen, waiting.kept):
            if lower_bound < waiting.kept:
                waiting.add_row(lower_bound, row)
        waiting.probe()
        begin, count = begin + len(chosen), min(MOST, 2 * count)


class _Waiting:
    """Boxes of variants that may hold a better plan, the one with the least bound first."""

    def __init__(self, space: Space, evaluate: Evaluator) -> None:
        self.best = IMPOSSIBLE
        self._space = space
        self._evaluate = evaluate
        self._count = 0
        self._heap: list[_Part] = []

    @property
    def enough(self) -> float:
        """A bound from which on nothing more has to be tried."""
        is_long = self._evaluate.num_bounds >= BEFORE_GAP
        return self.best * (1 - self._evaluate.budget.gap * is_long)

    @property
    def kept(self) -> float:
        """A bound from which on nothing is of interest."""
        return self.best * (1 + self._evaluate.budget.near)

    def add_row(self, lower_bound: float, row: int) -> None:
        """The plans of a row, whose lists are not compared with the memory yet."""
        heappush(self._heap, self._numbered(lower_bound, row, None, is_new=True))

    def _numbered(self, lower_bound: float, row: int, box: Box | None, *, is_new: bool) -> _Part:
        self._count += 1
        return lower_bound, self._count, row, box, is_new

    def work_off(self, lower_bound: float) -> None:
        """Try or divide all whose bound is at most `lower_bound`, and that may be better."""
        while self._heap and self._heap[0][0] <= lower_bound and self._heap[0][0] < self.enough:
            if self.best == IMPOSSIBLE:
                self._dive()
            else:
                self._work_off_first()

    def probe(self) -> None:
        """Look for a plan that is much better than the best, where bounds say that one may be.

        The better the best, the fewer layouts have to be opened at all.
        """
        for _ in range(MOST_PROBES):
            before = self.best
            if self._heap and self._heap[0][0] < PROMISING * before:
                self._dive()
            if self.best == before:
                return

    def _dive(self) -> None:
        """Go down from the first to a plan that is better, by the best part each time.

        Without a good plan little is ruled out, and many parts have bounds close to the first.
        """
        stack, before = [heappop(self._heap)], self.best
        for _ in range(LONGEST_DIVE):
            if not stack or self.best < before:
                break
            stack += sorted(self._parts(stack.pop()), reverse=True)
        for waiting in stack:
            heappush(self._heap, waiting)

    def work_off_near(self) -> None:
        """Try or divide the most promising of the rest, until some were tried."""
        asked, bounds = self._evaluate.num_asked + MOST_NEAR, self._evaluate.num_bounds
        while self._heap and self._heap[0][0] < self.kept:
            self._work_off_first()
            done = self._evaluate.num_bounds - bounds
            if self._evaluate.num_asked >= asked or done >= MOST_NEAR_BOUNDS:
                return

    def _work_off_first(self) -> None:
        for part in self._parts(heappop(self._heap)):
            heappush(self._heap, part)

    def _parts(self, waiting: _Part) -> Iterator[_Part]:
        """The parts of a box that may hold a better plan; a single plan is tried, and has none."""
        own, _, row, box, is_new = waiting
        if is_new:
            self._evaluate.rule_out_alike(self._space.row(row))
            if self._evaluate.layouts.of_plans[row] < IMPOSSIBLE:
                yield self._numbered(own, row, self._space.box(row), is_new=False)
            return
        parts = [] if box is None else divided(box)
        if not parts:
            self._try(row, box)
            return
        for bound, part in zip(self._evaluate.box_lower_bounds(row, parts), parts, strict=True):
            if bound < self.kept:
                yield self._numbered(bound, row, part, is_new=False)

    def _try(self, row: int, box: Box | None) -> None:
        self.try_plan(self._space.row(row) if box is None else self._space.only(row, box))

    def try_plan(self, plan: Plan) -> None:
        """Evaluate a plan if it fits."""
        if self._evaluate.fits(plan):
            self.best = min(self.best, self._evaluate.goal.key(self._evaluate(plan)))
