"""GPipe and 1F1B: complete lists, and step times equal to their closed forms."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.hardware.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine import PS_PER_S, simulate
from parplan.sim.instructions import Action, check_complete, parse_action, read_csv, write_csv
from parplan.sim.memory import micro_batches_in_flight
from parplan.sim.schedules import SCHEDULES, make_schedule

ranks = st.integers(1, 8)
micro_batches = st.integers(1, 16)
microseconds = st.integers(0, 50)


@pytest.mark.parametrize("name", SCHEDULES)
@given(p=ranks, m=micro_batches)
@settings(deadline=None)
def test_every_list_is_complete_and_survives_csv(name: str, p: int, m: int) -> None:
    schedule = make_schedule(name, p, m)
    check_complete(schedule, p, m)
    assert read_csv(write_csv(schedule)) == schedule


def test_the_lists_are_those_of_the_papers() -> None:
    assert write_csv(make_schedule("gpipe", 2, 2)) == "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n"
    assert write_csv(make_schedule("1f1b", 2, 3)) == (
        "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n"
    )


@given(p=ranks, m=micro_batches)
@settings(deadline=None)
def test_micro_batches_in_flight(p: int, m: int) -> None:
    assert micro_batches_in_flight(make_schedule("gpipe", p, m), p) == [m] * p
    one = micro_batches_in_flight(make_schedule("1f1b", p, m), p)
    assert one == [min(m, p - stage) for stage in range(p)]


@pytest.mark.parametrize("name", SCHEDULES)
@given(p=ranks, m=micro_batches, f=microseconds, b=microseconds)
@settings(deadline=None)
def test_step_time_without_communication(name: str, p: int, m: int, f: int, b: int) -> None:
    # (m + p - 1)(f + b) for both: Narayanan et al. 2021, section 2.2.
    cost = StageCosts(forward_s=f * 1e-6, input_gradient_s=b * 1e-6, weight_gradient_s=0.0)
    run = simulate(make_schedule(name, p, m), [cost] * p)
    assert round(run.step_s * PS_PER_S) == (m + p - 1) * (f + b) * 10**6


@given(p=ranks, m=micro_batches, f=st.integers(1, 50), b=st.integers(1, 50), d=microseconds)
@settings(deadline=None)
def test_step_time_of_gpipe_with_latency(p: int, m: int, f: int, b: int, d: int) -> None:
    # Every hop of the first forward and of the last backward adds its latency once.
    cost = StageCosts(
        forward_s=f * 1e-6, input_gradient_s=b * 1e-6, weight_gradient_s=0.0, latency_s=d * 1e-6
    )
    run = simulate(make_schedule("gpipe", p, m), [cost] * p)
    expected = (m + p - 1) * (f + b) + 2 * (p - 1) * d
    assert round(run.step_s * PS_PER_S) == expected * 10**6


@pytest.mark.parametrize("text", ["0F0xyz", "0BW0", "F0", "0F", "-1F0", "0X1", ""])
def test_what_is_not_an_action_is_refused(text: str) -> None:
    with pytest.raises(ParplanError, match="is not an action"):
        parse_action(text)


def test_an_incomplete_list_is_refused_by_what_is_missing() -> None:
    schedule = make_schedule("gpipe", 2, 2)
    with pytest.raises(ParplanError, match=r"1, micro-batch 1: expected F B .*got F"):
        check_complete((schedule[0], schedule[1][:-1]), 2, 2)
    with pytest.raises(ParplanError, match="1F0 is missing"):
        check_complete((schedule[0], ()), 2, 2)
    with pytest.raises(ParplanError, match=r"stage 1 is on rank 1 and on rank 0|on rank 0 and on"):
        check_complete(((*schedule[0], Action(1, "F", 9)), schedule[1]), 2, 2)


def test_an_unknown_schedule_suggests_the_near_one() -> None:
    with pytest.raises(ParplanError, match="did you mean 1f1b"):
        make_schedule("1f1", 2, 2)
