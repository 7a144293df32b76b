"""The SimPy engine: messages, reductions, optimizer, deadlocks."""

import itertools
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.analysis.timeline import chrome_trace
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.programs.instructions import read_csv
from parplan.sim.run import Run
from parplan.sim.schedules import make_schedule
from parplan.sim.ticks import ticks_of_seconds


def cost(**seconds: float) -> StageCosts:
    return StageCosts(
        **{"forward_s": 1.0, "input_gradient_s": 1.0, "weight_gradient_s": 1.0, **seconds}  # type: ignore[arg-type]
    )


def starts(run: Run, name: str) -> list[float]:
    return [e.start_s for e in run.events if e.name == name]


def test_a_message_delays_the_next_stage_by_its_size_and_latency() -> None:
    run = simulate(make_schedule("gpipe", 2, 1), [cost(send_s=0.5, latency_s=0.25)] * 2)
    assert starts(run, "1F0") == [1.75]
    assert starts(run, "0B0") == [1.75 + 1 + 2 + 0.75]
    assert run.step_s == 1.75 + 1 + 2 + 0.75 + 2


def test_a_link_carries_one_message_at_a_time() -> None:
    run = simulate(make_schedule("gpipe", 2, 3), [cost(send_s=3.0)] * 2)
    assert starts(run, "1F0") + starts(run, "1F1") + starts(run, "1F2") == [4.0, 7.0, 10.0]


def test_gradients_are_reduced_beside_the_last_backward() -> None:
    one = simulate(make_schedule("gpipe", 1, 1), [cost(reduce_s=2.0)])
    assert one.step_s == 3.0 + 2.0
    # Four buckets: each is ready a quarter of the backward later, the last one is exposed.
    four = simulate(make_schedule("gpipe", 1, 1), [cost(reduce_s=2.0, reduce_buckets=4)])
    assert four.step_s == 3.0 + 0.5


def test_sharded_gradients_are_reduced_in_every_micro_batch() -> None:
    costs = [cost(reduce_s=0.5, reduce_each_micro_batch=True)]
    run = simulate(make_schedule("gpipe", 1, 3), costs)
    assert len(starts(run, "reduce 0")) == 3


def test_the_optimizer_waits_for_the_last_gradient_and_the_gather_for_the_optimizer() -> None:
    run = simulate(
        make_schedule("gpipe", 1, 1), [cost(reduce_s=2.0, optimizer_s=0.5, gather_s=0.25)]
    )
    assert starts(run, "optimizer 0") == [5.0]
    assert starts(run, "gather 0") == [5.5]
    assert run.step_s == 5.75


def test_creating_gradients_costs_extra_once_per_stage() -> None:
    plain = simulate(make_schedule("1f1b", 1, 4), [cost()])
    extra = simulate(make_schedule("1f1b", 1, 4), [cost(first_gradient_extra_s=0.5)])
    assert extra.step_s == plain.step_s + 0.5


def test_a_deadlock_names_each_blocked_rank_and_what_it_waits_for() -> None:
    # Rank 0 wants the gradient of micro-batch 1 first, but rank 1 makes that of 0 first, and
    # waits for the forward of 1, which rank 0 has put last.
    schedule = read_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1")
    with pytest.raises(ParplanError) as error:
        simulate(schedule, [cost()] * 2)
    assert str(error.value) == (
        "the schedule deadlocks: rank 0 at 0B0 waits for B of micro-batch 0 for stage 0; "
        "rank 1 at 1F1 waits for F of micro-batch 1 for stage 1"
    )


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@given(
    p=st.integers(1, 5),
    m=st.integers(1, 8),
    seconds=st.lists(st.floats(0, 10), min_size=5, max_size=5),
)
@settings(deadline=None, max_examples=50)
def test_no_event_overlaps_another_of_its_stream(
    name: str, p: int, m: int, seconds: list[float]
) -> None:
    costs = [
        cost(forward_s=seconds[0] * (s + 1), send_s=seconds[1], latency_s=seconds[2])
        for s in range(p)
    ]
    run = simulate(make_schedule(name, p, m), costs)
    by_stream: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for event in run.events:
        key = event.rank, event.stream
        if event.stream == "send":
            key = event.rank, event.name.split(">")[1]
        by_stream.setdefault(key, []).append((event.start_s, event.end_s))
    for spans in by_stream.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert max(e.end_s for e in run.events) <= run.step_s
    assert 0 <= run.bubble < 1 or run.step_s == 0


def test_the_bubble_is_what_the_paper_says() -> None:
    # (p - 1) / (m + p - 1) of the step for equal stages.
    assert simulate(make_schedule("1f1b", 4, 8), [cost()] * 4).bubble == pytest.approx(3 / 11)


def test_the_trace_holds_every_event_of_both_runs() -> None:
    run = simulate(make_schedule("1f1b", 2, 2), [cost(send_s=0.5)] * 2)
    trace = chrome_trace({"predicted": run, "measured": run})["traceEvents"]
    bars = [e for e in trace if e["ph"] == "X"]
    assert len(bars) == 2 * len(run.events)
    names = {e["args"]["name"] for e in trace if e["name"] == "process_name"}
    assert names == {f"{who}: rank {r}" for who in ("predicted", "measured") for r in (0, 1)}
    assert sum(e["dur"] for e in bars) == pytest.approx(
        2e6 * sum(e.end_s - e.start_s for e in run.events)
    )


def test_a_run_is_a_frame_and_survives_pickling() -> None:
    run = simulate(make_schedule("1f1b", 2, 3), [cost(send_s=0.5, reduce_s=1.0)] * 2)
    frame = run.as_frame()
    assert list(frame.itertuples(index=False, name=None)) == [tuple(e) for e in run.events]
    plain = Run(step_s=run.step_s, events=tuple(run.events))
    assert plain.as_frame().equals(frame)
    assert (plain.num_ranks, plain.bubble) == (run.num_ranks, pytest.approx(run.bubble))
    assert pickle.loads(pickle.dumps(run)) == run
    assert run == plain


def test_a_sender_that_blocks_computes_on_when_its_message_has_arrived() -> None:
    schedule = make_schedule("gpipe", 2, 2)
    run = simulate(schedule, [cost(send_s=0.5, latency_s=0.25)] * 2, blocking_sends=True)
    assert starts(run, "0F1") == [1.75]


@pytest.mark.parametrize(
    "name", ["send_s", "latency_s", "reduce_s", "optimizer_s", "gather_s", "norm_sync_s"]
)
def test_a_time_below_zero_is_refused(name: str) -> None:
    for seconds in (-1e-9, float("nan")):
        with pytest.raises(ParplanError, match=rf"costs: {seconds} s; must not be negative"):
            StageCosts(
                forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, **{name: seconds}
            )
    with pytest.raises(ParplanError, match="s can be simulated"):
        ticks_of_seconds(
            forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, **{name: -1e-9}
        )
