"""Objectives order plans as they say, and a front holds what nothing beats."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.objectives import (
    OBJECTIVES,
    ObjectiveInputs,
    TrainingRun,
    goal_of,
    objective,
    pareto,
)
from parplan.planners.costs.trial import Trial
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.step.failures import Failures
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("8xa100-40gb")
FAILURES = Failures(mean_time_between_s=36_000.0, restart_s=300.0, checkpoint_s=60.0)
RUN = TrainingRun(tokens=1e9, price_per_hour=2.0, failures=FAILURES)
SETTING = ObjectiveInputs(WORKLOAD, CLUSTER, RUN)


def trial(step_s: float, memory_bytes: float = 1e9) -> Trial:
    return Trial(plan=Plan(), memory_bytes=(memory_bytes,), step_s=step_s)


def in_order(trials: list[Trial], name: str) -> list[Trial]:
    return sorted(trials, key=lambda t: OBJECTIVES[name].key(t, SETTING))


def test_every_objective_by_step_time_has_the_order_of_steps() -> None:
    trials = [trial(s) for s in (3.0, 1.0, 2.5, 10.0, 2.0)]
    by_step = sorted(trials, key=lambda t: t.step_s or 0.0)
    for name, each in OBJECTIVES.items():
        if each.by_step_time:
            assert in_order(trials, name) == by_step, name


def test_head_room_puts_the_emptiest_first() -> None:
    trials = [trial(1.0, 30e9), trial(2.0, 10e9)]
    assert in_order(trials, "head-room") == [trials[1], trials[0]]
    left = OBJECTIVES["head-room"].value(trials[0], SETTING)
    assert left == 1 - 30e9 / CLUSTER.accelerator.memory_bytes


def test_what_a_training_takes_and_costs() -> None:
    plain = ObjectiveInputs(WORKLOAD, CLUSTER, replace(RUN, failures=None))
    one = trial(2.0)
    steps = RUN.num_steps(WORKLOAD)
    assert (steps - 1) * 16 * 2048 < 1e9 <= steps * 16 * 2048
    seconds = OBJECTIVES["training-time"].value(one, plain)
    assert seconds == 2.0 * steps
    assert OBJECTIVES["cost"].value(one, plain) == pytest.approx(2.0 * 8 * seconds / 3600)
    assert OBJECTIVES["tokens-per-accelerator"].value(one, plain) == 16 * 2048 / 2.0 / 8
    # Failures and checkpoints take time, more so with a checkpoint at every step.
    failing = OBJECTIVES["training-time"].value(one, SETTING)
    often = ObjectiveInputs(WORKLOAD, CLUSTER, replace(RUN, checkpoint_every=1))
    assert seconds < failing < OBJECTIVES["training-time"].value(one, often)
    assert OBJECTIVES["goodput"].value(one, SETTING) == pytest.approx(steps * 16 * 2048 / failing)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30))
def test_a_front_is_what_no_plan_beats(points: list[tuple[int, int]]) -> None:
    trials = [trial(float(a), float(b)) for a, b in points]
    unbeaten = {
        (a, b)
        for a, b in points
        if not any(x <= a and y <= b and (x, y) != (a, b) for x, y in points)
    }
    front = pareto([*trials, Trial(plan=Plan(), reason="too large", memory_bytes=(0.5,))])
    found = [(int(t.step_s or 0), int(max(t.memory_bytes))) for t in front]
    assert found == sorted(unbeaten)


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        ("training-time", TrainingRun(), "tokens: this objective needs"),
        ("cost", TrainingRun(tokens=1e9), "price_per_hour: the cost needs"),
        ("goodput", TrainingRun(tokens=1e9), "failures: the goodput needs"),
        ("costs", RUN, "unknown objective 'costs'; did you mean cost"),
    ],
)
def test_objectives_that_lack_something(name: str, run: TrainingRun, message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        goal_of(name, ObjectiveInputs(WORKLOAD, CLUSTER, run))


def test_what_cannot_be() -> None:
    with pytest.raises(ParplanError, match="tokens: must be above 0, got 0"):
        TrainingRun(tokens=0)
    with pytest.raises(ParplanError, match="a plan without a step time: too large"):
        objective("step-time").value(Trial(plan=Plan(), reason="too large"), SETTING)
