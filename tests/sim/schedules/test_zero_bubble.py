"""Zero bubble within a memory limit, against the paper's own table and its limits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.programs.instructions import Schedule
from parplan.sim.programs.validate import explain
from parplan.sim.schedules import PassTimes, make_schedule
from parplan.sim.schedules.zero_bubble import occupied_time, peak_micro_batches, zero_bubble

PAPER = Path(__file__).parents[3] / "experiments/papers/zero_bubble.json"
CASES = json.loads(PAPER.read_text(encoding="utf-8"))["cases"]
positive = st.floats(0.1, 10)
times = st.builds(
    PassTimes,
    forward=positive,
    input_gradient=positive,
    weight_gradient=positive,
    message=st.floats(0, 3),
)


def paper_times(case: dict[str, Any]) -> PassTimes:
    return PassTimes(
        forward=case["forward_ms"],
        input_gradient=case["input_gradient_ms"],
        weight_gradient=case["weight_gradient_ms"],
        message=case["message_ms"],
    )


def occupied_s(schedule: Schedule, times: PassTimes) -> float:
    """The paper's cost, by the simulator."""
    costs = StageCosts(
        forward_s=times.forward,
        input_gradient_s=times.input_gradient,
        weight_gradient_s=times.weight_gradient,
        latency_s=times.message,
    )
    run = simulate(schedule, [costs] * len(schedule))
    of_rank = [
        [e for e in run.events if e.rank == rank and e.stream == "compute"]
        for rank in range(len(schedule))
    ]
    return max(events[-1].end_s - events[0].start_s for events in of_rank)


def bubble_rate(schedule: Schedule, case: dict[str, Any]) -> float:
    times = paper_times(case)
    work = times.forward + times.input_gradient + times.weight_gradient
    # Above 16 stages by the longest path, which is the same (below) and faster.
    cost = (occupied_s if len(schedule) <= 16 else occupied_time)(schedule, times)
    return (cost - case["num_micro_batches"] * work) / cost


def paper_schedule(name: str, case: dict[str, Any]) -> Schedule:
    p, m = case["num_stages"], case["num_micro_batches"]
    limits = {"ZB-1p": p, "ZB-2p": 2 * p}
    if name not in limits:
        return make_schedule(name.lower(), p, m)
    # What a weight gradient needs of a layer's activations: table 1 of the paper.
    h, a, s = case["hidden_size"], case["num_heads"], case["seq_len"]
    return zero_bubble(
        p,
        m,
        times=paper_times(case),
        memory_limit=limits[name],
        weight_share=32 * h / (34 * h + 5 * a * s),
    )


by_case = pytest.mark.parametrize(
    "case", CASES, ids=[f"{case['model']}-{case['num_micro_batches']}" for case in CASES]
)


@pytest.mark.parametrize("name", ["1F1B", "ZB-H1", "ZB-H2", "ZB-1p"])
@by_case
def test_bubble_rates_of_the_paper(name: str, case: dict[str, Any]) -> None:
    # Four decimals are printed, and the times with three, which can move the last decimal by one.
    rate = bubble_rate(paper_schedule(name, case), case)
    assert rate == pytest.approx(case["bubble_rate"][name], abs=1e-4)


@by_case
def test_bubble_rates_of_the_papers_search(case: dict[str, Any]) -> None:
    # Our search is not the paper's code: where it finds another schedule, here once in twelve, that
    # costs less than 0.02 % of the step.
    rate = bubble_rate(paper_schedule("ZB-2p", case), case)
    assert rate == pytest.approx(case["bubble_rate"]["ZB-2p"], abs=2e-4)


@given(
    p=st.integers(1, 8),
    m=st.integers(1, 24),
    times=times,
    limit=st.floats(1, 20),
    share=st.floats(0, 1),
)
@settings(deadline=None, max_examples=80)
def test_it_is_complete_and_keeps_to_the_limit(
    p: int, m: int, times: PassTimes, limit: float, share: float
) -> None:
    schedule = zero_bubble(p, m, times=times, memory_limit=limit, weight_share=share)
    assert explain(schedule, p, m) == []
    assert peak_micro_batches(schedule, share) <= limit + 1e-6
    for one in (schedule, make_schedule("1f1b", p, m)):
        assert occupied_time(one, times) == pytest.approx(occupied_s(one, times), rel=1e-9)


@given(p=st.integers(1, 8), m=st.integers(1, 24), times=times)
@settings(deadline=None, max_examples=50)
def test_it_is_never_worse_than_what_fits(p: int, m: int, times: PassTimes) -> None:
    for name, limit in (("zb-h1", p), ("zb-h2", 2 * p - 1)):
        automatic = make_schedule("zb-auto", p, m, times=times, memory_limit=float(limit))
        handmade = occupied_time(make_schedule(name, p, m), times)
        assert occupied_time(automatic, times) <= handmade


@pytest.mark.parametrize(
    "options", [{"memory_limit": 0.5}, {"memory_limit": math.nan}, {"weight_share": 1.5}]
)
def test_impossible_limits_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ParplanError, match="; need at least 1"):
        zero_bubble(2, 4, **options)  # type: ignore[arg-type]


def test_passes_take_time() -> None:
    with pytest.raises(ParplanError, match="times: passes have to take time"):
        PassTimes(forward=0.0)
