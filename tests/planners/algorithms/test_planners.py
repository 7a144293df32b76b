"""Every planner of parplan conforms, and the checks find those that do not."""

from collections.abc import Callable
from random import Random

import pytest

from parplan.planners.conformance import (
    CHECKS,
    check_it_does_not_cheat,
    check_it_is_repeatable,
    check_it_searches,
    check_it_stops_at_once,
    check_it_uses_no_chance_of_its_own,
    check_its_answer_is_feasible,
    example_space,
)
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Budget, Evaluator, Stopped
from parplan.planners.search.run import BUILT_IN, run_planner
from parplan.planners.spaces.space import Space
from parplan.sim.plan import Plan

Check = Callable[[str], None]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("planner", BUILT_IN)
def test_parplans_own(planner: str, check: Check) -> None:
    check(planner)


@pytest.mark.long
def test_with_time_enough_a_planner_finds_the_fastest_or_nearly() -> None:
    space = example_space()
    everything = run_planner("exhaustive", space)
    times = sorted(t.step_s for t in everything.trials if t.step_s is not None)
    for planner in BUILT_IN:
        # A model of hundreds of trials takes long, and a better choice needs fewer of them.
        few = Budget(evaluations=120) if planner in ("bayesian", "tpe") else None
        best = run_planner(planner, space, budget=few).best
        assert best is not None
        if planner in ("branch-and-bound", "random", "grid", "pareto-front"):
            assert best.step_s == times[0]
        elif planner == "as-ap":
            # It only knows a few candidates.
            assert times[0] <= (best.step_s or 0.0)
        else:
            assert times[0] <= (best.step_s or 0.0) <= times[len(times) // 50], planner


def hashed(space: Space, evaluate: Evaluator, rng: Random) -> None:
    evaluate.many(space[hash(str(i)) % len(space)] for i in range(20))


def lucky(space: Space, evaluate: Evaluator, rng: Random) -> None:
    import random

    evaluate.many(space[random.randrange(len(space))] for _ in range(20))


def stubborn(space: Space, evaluate: Evaluator, rng: Random) -> None:
    for plan in space[:200]:
        try:
            evaluate(plan)
        except Stopped:
            continue


def stranger(space: Space, evaluate: Evaluator, rng: Random) -> None:
    evaluate(Plan(num_stages=8, num_micro_batches=16))


def lazy(space: Space, evaluate: Evaluator, rng: Random) -> None:
    evaluate(space[0])


def forger(space: Space, evaluate: Evaluator, rng: Random) -> None:
    evaluate.many(space[:20])
    evaluate._trials[space[0]] = Trial(plan=space[0], memory_bytes=(1.0,), step_s=1e9)


@pytest.mark.parametrize(
    ("planner", "check"),
    [
        (hashed, check_it_is_repeatable),
        (lucky, check_it_uses_no_chance_of_its_own),
        (stubborn, check_it_stops_at_once),
        (stranger, check_its_answer_is_feasible),
        (lazy, check_it_searches),
        (forger, check_it_does_not_cheat),
    ],
)
def test_the_checks_find_what_is_wrong(planner: Callable[..., None], check: Check) -> None:
    with pytest.raises(AssertionError, match=rf"{planner.__name__}"):
        check(f"tests.planners.algorithms.test_planners:{planner.__name__}")
