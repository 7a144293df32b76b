"""Searches for other goals than the step time find what brute force finds, and say what is left."""

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.conformance import example_space
from parplan.planners.costs.goal import LEAST_MEMORY, STEP_TIME, Goal
from parplan.planners.costs.objectives import (
    OBJECTIVES,
    ObjectiveInputs,
    TrainingRun,
    goal_of,
    pareto,
)
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.robust import Disturbance, expected_step
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.space import Space
from parplan.sim.step.failures import Failures

SPACE = example_space()
EVERY = run_planner("exhaustive", SPACE)
NOISY = Disturbance(noise=0.1, straggler_factor=1.5, straggler_share=0.1)


def goals() -> list[Goal]:
    return [
        STEP_TIME,
        LEAST_MEMORY,
        expected_step(SPACE.workload, SPACE.cluster, NOISY, samples=4),
    ]


@pytest.mark.parametrize("goal", goals(), ids=lambda goal: goal.name)
def test_the_proven_best_is_that_of_brute_force(goal: Goal) -> None:
    found = run_planner("branch-and-bound", SPACE, goal=goal, with_gap=True)
    assert found.proven
    assert found.gap == 0.0
    assert found.best is not None
    keys = [goal.key(trial) for trial in EVERY.trials]
    assert goal.key(found.best) == min(keys)
    assert found.num_asked < len(SPACE) / 4


def test_another_goal_is_another_plan() -> None:
    fast, small = (run_planner("branch-and-bound", SPACE, goal=g).best for g in goals()[:2])
    assert fast is not None
    assert small is not None
    assert max(small.memory_bytes) < max(fast.memory_bytes)
    assert (small.step_s or 0.0) > (fast.step_s or 0.0)


def test_the_gap_is_what_the_bounds_leave() -> None:
    best_s = min(t.step_s for t in EVERY.trials if t.step_s is not None)
    for evaluations in (1, 5, 40):
        found = run_planner("random", SPACE, budget=Budget(evaluations=evaluations), with_gap=True)
        if found.best is None:
            assert found.gap is None
            continue
        own_s = found.best.step_s or 0.0
        assert found.gap is not None
        assert 0 <= 1 - best_s / own_s <= found.gap < 1
    assert run_planner("exhaustive", SPACE, with_gap=True).gap == 0.0


def test_the_proven_front_is_that_of_brute_force() -> None:
    found = run_planner("pareto-front", SPACE)

    def points(trials: tuple[Trial, ...]) -> list[tuple[float | None, float]]:
        return [(t.step_s, max(t.memory_bytes)) for t in pareto(trials)]

    assert points(found.trials) == points(EVERY.trials)
    assert found.num_asked < len(SPACE) / 4
    # A search without bounds comes close to it.
    some = run_planner("nsga2", SPACE, budget=Budget(evaluations=300), seed=1)
    assert (
        len(set(points(some.trials)) & set(points(EVERY.trials))) >= len(points(EVERY.trials)) / 3
    )


def test_what_was_known_is_not_done_again() -> None:
    class Refused(Evaluator):
        def _judge(self, plan: object) -> Trial:
            raise AssertionError(f"asked again: {plan}")

    first = run_planner("annealing", SPACE, budget=Budget(evaluations=80), seed=3)
    again = Refused(SPACE.workload, SPACE.cluster, space=SPACE, known=first.trials)
    assert tuple(again.many([t.plan for t in first.trials])) == first.trials
    # Taken up, a search ends where it would have ended without the interrupt.
    known = run_planner(
        "annealing", SPACE, budget=Budget(evaluations=200), seed=3, known=first.trials
    )
    whole = run_planner("annealing", SPACE, budget=Budget(evaluations=200), seed=3)
    assert known.trials == whole.trials


def test_an_interrupt_keeps_what_was_tried() -> None:
    def interrupting(what: str, done: int, of: int) -> None:
        if what == "compile" and done > 100:
            raise KeyboardInterrupt

    report = exhaustive(SPACE.workload, SPACE.cluster, list(SPACE), progress=interrupting)
    assert report.stopped == "interrupted"
    assert 100 < len(report.trials) < len(SPACE)

    def second(space: Space, evaluate: Evaluator, rng: object) -> None:
        evaluate.many(space[:50])
        raise KeyboardInterrupt

    found = run_planner(second, SPACE)
    assert (found.stopped, len(found.trials)) == ("interrupted", 50)


def test_energy_is_power_times_time() -> None:
    setting = ObjectiveInputs(SPACE.workload, SPACE.cluster, TrainingRun(tokens=1e9))
    one = Trial(plan=SPACE[0], memory_bytes=(1.0,), step_s=3.6)
    steps = setting.run.num_steps(SPACE.workload)
    assert OBJECTIVES["energy"].value(one, setting) == pytest.approx(400 * 8 * steps / 1e6)
    mi250 = cluster_preset("4xLarge.2048GB")
    assert mi250.accelerator.board_power_w == 280


def test_goals_that_lack_something_are_refused_before_the_search() -> None:
    setting = ObjectiveInputs(SPACE.workload, SPACE.cluster, TrainingRun())
    with pytest.raises(ParplanError, match="tokens: this objective needs"):
        goal_of(
            "cost", ObjectiveInputs(SPACE.workload, SPACE.cluster, TrainingRun(price_per_hour=1.0))
        )
    with pytest.raises(ParplanError, match="unknown objective"):
        goal_of("speed", setting)
    assert goal_of("head-room", setting) is LEAST_MEMORY
    assert goal_of("tokens-per-accelerator", setting) is STEP_TIME
    endless = TrainingRun(
        tokens=1e12,
        failures=Failures(mean_time_between_s=0.001, restart_s=1.0, checkpoint_s=1.0),
    )
    with pytest.raises(ParplanError, match="training does not end"):
        goal_of("training-time", ObjectiveInputs(SPACE.workload, SPACE.cluster, endless))
    with pytest.raises(ParplanError, match="stragglers must not be faster"):
        expected_step(SPACE.workload, SPACE.cluster, Disturbance(straggler_factor=0.5))
