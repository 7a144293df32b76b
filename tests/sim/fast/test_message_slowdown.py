"""Computations that go slower while messages use their rank."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast.slowdown_evaluator import slowed_run
from parplan.sim.run import Run
from parplan.sim.schedules import make_schedule
from parplan.sim.step.shared_links import node_links
from tests.sim.engine.random_lists import random_costs, random_lists, random_program

seeds = st.integers(0, 2**32)
factors = st.one_of(st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.floats(1.0, 20.0))


@given(seed=seeds, factor=factors, blocking=st.booleans(), post=st.booleans())
@settings(deadline=None, max_examples=300)
def test_both_players_are_slowed_alike(
    seed: int, factor: float, blocking: bool, post: bool
) -> None:
    program, stages = random_program(seed)
    costs = random_costs(seed, stages, whole_step=True)
    how = {"blocking_sends": blocking, "post_validation": post}
    run = simulate(program, costs, **how, compute_slowdown_during_messages=factor)
    assert slowed_run(program, costs, factor, **how) == run


@given(seed=seeds, factor=factors)
@settings(deadline=None, max_examples=100)
def test_reductions_in_every_micro_batch_are_slowed_alike(seed: int, factor: float) -> None:
    schedule, stages = random_lists(seed)
    costs = random_costs(seed, stages)
    run = simulate(schedule, costs, compute_slowdown_during_messages=factor)
    assert slowed_run(schedule, costs, factor) == run


@given(seed=seeds)
@settings(deadline=None, max_examples=100)
def test_a_factor_of_one_changes_nothing(seed: int) -> None:
    program, stages = random_program(seed)
    costs = random_costs(seed, stages, whole_step=True)
    assert slowed_run(program, costs, 1.0) == simulate(program, costs)


def times(run: Run) -> dict[str, tuple[float, float]]:
    return {e.name: (e.start_s, e.end_s) for e in run.events if e.stream == "compute"}


@given(seed=seeds, factor=st.floats(1.0, 9.0))
@settings(deadline=None, max_examples=100)
def test_a_computation_takes_at_most_the_factor_longer(seed: int, factor: float) -> None:
    schedule, stages = random_lists(seed)
    costs = random_costs(seed, stages)
    usual = simulate(schedule, costs)
    slow = simulate(schedule, costs, compute_slowdown_during_messages=factor)
    assert slow.step_s >= usual.step_s
    alone, simulated = times(usual), times(slow)
    for name, (start_s, end_s) in simulated.items():
        took, before = end_s - start_s, alone[name][1] - alone[name][0]
        # The rate is rounded down to a part in 65536, the end up to a picosecond.
        assert before - 1e-15 <= took <= before * factor * (1 + factor / 2**15) + 2e-12


def test_a_computation_beside_a_message_by_hand() -> None:
    # 0F0 is sent from 1 s to 2 s, beside half of 0F1, which takes 1.5 s: half a second's work is
    # done by 2 s. 1F0 begins at 2 s; 0F1 is sent from 2.5 s to 3.5 s, beside the other half of 1F0.
    cost = StageCosts(forward_s=1, input_gradient_s=0, weight_gradient_s=0, send_s=1)
    run = simulate(make_schedule("gpipe", 2, 2), [cost] * 2, compute_slowdown_during_messages=2)
    assert times(run)["0F1"] == (1, 2.5)
    assert times(run)["1F0"] == (2, 3.5)
    assert times(run)["1F1"][0] == 3.5


def test_steps_in_a_row_are_slowed() -> None:
    schedule, costs = make_schedule("1f1b", 3, 4), random_costs(12, 3)
    found = simulate_steps(schedule, costs, 2, compute_slowdown_during_messages=3.0)
    alone = simulate(schedule, costs, compute_slowdown_during_messages=3.0)
    assert found.runs[0].step_s == alone.step_s


def test_what_cannot_be_played_is_refused() -> None:
    schedule, costs = make_schedule("1f1b", 2, 2), random_costs(0, 2)
    for play in (simulate, lambda s, c, **how: slowed_run(s, c, *how.values())):
        with pytest.raises(ParplanError, match=r"must be at least 1, got 0\.5"):
            play(schedule, costs, compute_slowdown_during_messages=0.5)
    with pytest.raises(ParplanError, match=r"2\.0 with shared links; only one of them"):
        simulate(schedule, costs, links=node_links(2, 1), compute_slowdown_during_messages=2.0)
