"""Ranks that fail during a row of steps, and checkpoints from which all begin again."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast.fast import fast_steps
from parplan.sim.programs.instructions import read_csv
from parplan.sim.schedules import make_schedule
from parplan.sim.step.failures import Failures, expected_s
from parplan.sim.step.steps import Failing, Failure, Steps
from parplan.sim.step.tape import lower
from tests.sim.engine.random_lists import random_costs, random_program


def without_runs(steps: Steps) -> tuple[object, ...]:
    return steps.ends_s, steps.end_s, steps.failures


@given(
    seed=st.integers(0, 2**32),
    num_steps=st.integers(1, 7),
    every=st.integers(1, 4),
    rate=st.floats(1.0, 10.0),  # Below, a checkpoint is reached after very many failures.
    times=st.tuples(st.floats(0, 2), st.floats(0, 2)),
)
@settings(deadline=None, max_examples=50)
def test_both_players_fail_alike(
    seed: int, num_steps: int, every: int, rate: float, times: tuple[float, float]
) -> None:
    program, stages = random_program(seed)
    costs = random_costs(seed, stages, whole_step=True)
    step_s = simulate(program, costs).step_s or 1e-12
    failures = Failures(
        mean_time_between_s=rate * step_s * every,
        restart_s=times[0] * step_s,
        checkpoint_s=times[1] * step_s,
    )
    found = [
        play(
            failing=Failing(costs=failures, checkpoint_every=every, rng=np.random.default_rng(seed))
        )
        for play in (
            lambda failing: simulate_steps(program, costs, num_steps, failing=failing),
            lambda failing: fast_steps(lower(program), costs, num_steps, failing=failing),
        )
    ]
    assert without_runs(found[0]) == without_runs(found[1])
    assert [len(found[0].runs), len(found[0].ends_s)] == [num_steps] * 2


COSTS = [StageCosts(forward_s=1, input_gradient_s=1, weight_gradient_s=1)]
ONE = make_schedule("1f1b", 1, 1)


def failing(*at_s: tuple[float, int], restart_s: float = 5.0, checkpoint_s: float = 1.0) -> Failing:
    costs = Failures(mean_time_between_s=1.0, restart_s=restart_s, checkpoint_s=checkpoint_s)
    return Failing(costs=costs, checkpoint_every=2, at_s=at_s)


def test_a_failure_loses_the_steps_since_the_checkpoint() -> None:
    # Steps of 3 s: two and a checkpoint by 7 s, one more by 10 s, which is lost at 11 s.
    found = simulate_steps(ONE, COSTS, 4, failing=failing((11.0, 0)))
    assert found.ends_s == (3, 6, 19, 22)
    assert found.end_s == 23
    assert found.failures == (Failure(11.0, 0, 2),)
    assert [e.start_s for run in found.runs for e in run.events if e.name == "0F0"] == [
        0,
        3,
        16,
        19,
    ]
    assert [run.step_s for run in found.runs] == [3] * 4


def test_ranks_fail_in_checkpoints_and_restarts_too() -> None:
    found = simulate_steps(ONE, COSTS, 2, failing=failing((6.5, 0), (8.0, 0)))
    assert found.failures == (Failure(6.5, 0, 0), Failure(8.0, 0, 0))
    assert found.end_s == 8 + 5 + 7


@pytest.mark.parametrize("checkpoint_s", [0.0, 1.0])
def test_what_ends_at_the_instant_of_a_failure_has_ended(checkpoint_s: float) -> None:
    at = 6.0 + checkpoint_s
    for play in (simulate_steps, lambda s, *more, **how: fast_steps(lower(s), *more, **how)):
        found = play(ONE, COSTS, 3, failing=failing((at, 0), checkpoint_s=checkpoint_s))
        assert found.failures == (Failure(at, 0, 2),)
        assert found.ends_s == (3, 6, at + 5 + 3)


def test_failures_after_the_end_do_not_matter() -> None:
    found = simulate_steps(ONE, COSTS, 2, failing=failing((7.0, 0), (100.0, 0)))
    assert (found.end_s, found.failures) == (7, ())


def test_the_mean_is_that_of_the_formula() -> None:
    # The norm makes all ranks end a step together, so that a row takes as long as its steps.
    schedule = make_schedule("1f1b", 2, 2)
    costs = [
        StageCosts(forward_s=0.1, input_gradient_s=0.1, weight_gradient_s=0.1, norm_sync_s=0.1)
    ]
    failures = Failures(mean_time_between_s=20.0, restart_s=3.0, checkpoint_s=0.5)
    rng, (steps, every) = np.random.default_rng(5), (10, 4)
    given = Failing(costs=failures, checkpoint_every=every, rng=rng)
    ends = [simulate_steps(schedule, costs * 2, steps, failing=given).end_s for _ in range(300)]
    expected = expected_s(simulate(schedule, costs * 2).step_s, steps, every, failures)
    assert abs(np.mean(ends) - expected) < 3 * np.std(ends) / math.sqrt(len(ends))
    tape = lower(schedule)
    many = [fast_steps(tape, costs * 2, steps, failing=given).end_s for _ in range(3000)]
    assert abs(np.mean(many) - expected) < 3 * np.std(many) / math.sqrt(len(many))


def test_deadlocks_are_named_before_anything_fails() -> None:
    schedule = read_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1")
    with pytest.raises(ParplanError, match="the schedule deadlocks"):
        simulate_steps(schedule, COSTS * 2, 2, failing=failing((1.0, 0)))


def test_failures_that_cannot_be_are_refused() -> None:
    costs = Failures(mean_time_between_s=1.0, restart_s=1.0, checkpoint_s=1.0)
    with pytest.raises(ParplanError, match="checkpoint_every: must be at least 1, got 0"):
        Failing(costs=costs, checkpoint_every=0, at_s=())
    with pytest.raises(ParplanError, match="either their times `at_s` or a generator"):
        Failing(costs=costs, checkpoint_every=1)
    with pytest.raises(ParplanError, match="must be in order"):
        failing((2.0, 0), (1.0, 0))
    with pytest.raises(ParplanError, match=r"rank 1 at 1\.0 s; ranks are 0 to 0"):
        simulate_steps(ONE, COSTS, 1, failing=failing((1.0, 1)))
