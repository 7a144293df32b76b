"""Slow ranks, noise, failures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.fast.fast import fast_many_ps, fast_step_s
from parplan.sim.fast.variation import varied_durations_ps
from parplan.sim.schedules import make_schedule
from parplan.sim.step.failures import Failures, best_checkpoint_interval, expected_s
from parplan.sim.step.tape import lower
from parplan.sim.ticks import PS_PER_S, stage_ticks
from tests.sim.engine.random_lists import random_costs, random_lists


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_no_variation_is_what_the_costs_say(seed: int) -> None:
    schedule, stages = random_lists(seed)
    costs = random_costs(seed, stages)
    (durations,) = varied_durations_ps(lower(schedule), costs).tolist()
    assert simulate(schedule, costs, durations_ps=durations) == simulate(schedule, costs)


def test_a_straggler_holds_up_the_pipeline() -> None:
    tape = lower(make_schedule("gpipe", 4, 8))
    costs = [StageCosts(forward_s=1, input_gradient_s=1, weight_gradient_s=1)] * 4
    slow = varied_durations_ps(tape, costs, slowdown={2: 1.5})
    (step_ps,) = fast_many_ps(tape, stage_ticks([costs]), durations_ps=slow)
    # Rank 2 does all in 1.5 x 24 s; the others pass each micro-batch once on either side.
    assert step_ps / PS_PER_S == 8 * 4.5 + 3 * 3
    assert fast_step_s(tape, costs) == 11 * 3


def test_noise_is_the_same_for_every_player_and_repeats_with_its_seed() -> None:
    schedule = make_schedule("1f1b", 3, 5)
    tape, costs = lower(schedule), random_costs(4, 3)
    first, again = (
        varied_durations_ps(tape, costs, noise=0.1, samples=20, rng=np.random.default_rng(7))
        for _ in range(2)
    )
    assert (first == again).all()
    ends = fast_many_ps(tape, stage_ticks([costs] * 20), durations_ps=first)
    assert len(set(ends.tolist())) > 1
    for own, end in zip(first.tolist(), ends.tolist(), strict=True):
        assert round(simulate(schedule, costs, durations_ps=own).step_s * PS_PER_S) == end


def test_noise_needs_a_generator() -> None:
    tape, costs = lower(make_schedule("1f1b", 2, 2)), random_costs(0, 2)
    with pytest.raises(ParplanError, match="needs a generator"):
        varied_durations_ps(tape, costs, noise=0.1)
    with pytest.raises(ParplanError, match=r"rank 2 x .*; ranks are 0 to 1"):
        varied_durations_ps(tape, costs, slowdown={2: 2.0})


def test_expected_time_with_failures_is_what_a_simulation_finds() -> None:
    failures = Failures(mean_time_between_s=50.0, restart_s=5.0, checkpoint_s=2.0)
    draw = np.random.default_rng(3)
    totals = [_with_failures(failures, 40, 4, draw) for _ in range(2000)]
    expected = expected_s(1.0, 40, 4, failures)
    assert abs(np.mean(totals) - expected) < 4 * np.std(totals) / math.sqrt(len(totals))


def _with_failures(failures: Failures, steps: int, every: int, draw: np.random.Generator) -> float:
    """Seconds of `steps` steps of 1 s, failure by failure."""
    now = 0.0
    for _ in range(steps // every):
        work, restart = every * 1.0 + failures.checkpoint_s, 0.0
        while (failed := draw.exponential(failures.mean_time_between_s)) < restart + work:
            now, restart = now + failed, failures.restart_s
        now += restart + work
    return now


def test_without_failures_only_checkpoints_are_added() -> None:
    never = Failures(mean_time_between_s=1e15, restart_s=5.0, checkpoint_s=2.0)
    assert expected_s(1.0, 10, 4, never) == pytest.approx(10 + 3 * 2.0)
    often = Failures(mean_time_between_s=3600.0, restart_s=5.0, checkpoint_s=2.0)
    every = best_checkpoint_interval(1.0, often)
    assert every == 120
    best = expected_s(1.0, 12000, every, often)
    assert best < min(expected_s(1.0, 12000, e, often) for e in (every // 3, every * 3))
