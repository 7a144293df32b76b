"""What must hold between predictions, whatever they are: a change for the better is never worse."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.experiments.landscape.machine import CHANGES, changed
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.fast.fast import fast_step_s
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.programs.arrays import action_arrays
from parplan.sim.schedules import CATALOGUE, make_program, why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.step.recording import StepRecord
from parplan.sim.step.self_check import check_simulated
from parplan.sim.step.tape import lower
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama2-7b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("2xdgx-a100")
TIMES = ("forward_s", "input_gradient_s", "weight_gradient_s", "first_gradient_extra_s")
ONCE = ("send_s", "latency_s", "reduce_s", "optimizer_s", "gather_s", "norm_sync_s")
# By times, the order itself changes with them; copies of a stage do not reduce each micro-batch.
NAMES = [name for name, kind in CATALOGUE.items() if not kind.by_times and kind.one_copy]
EVEN_PS = st.integers(0, 10**6).map(lambda n: 2 * n / 10**12)


@cache
def candidates() -> tuple[Plan, ...]:
    allowed = Constraints(batch_per_device=(1, 2), virtual_stages=(1,), schedule=("1f1b",))
    return tuple(make_space(WORKLOAD, CLUSTER, allowed))


@st.composite
def played(draw):  # type: ignore[no-untyped-def]
    """A schedule, and costs of each of its stages that halve exactly."""
    name = draw(st.sampled_from(NAMES))
    ranks, count = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    chunks = CATALOGUE[name].virtual_stages[0]
    if why_not(name, ranks, count, chunks):
        ranks, count = 2, 4
    program = make_program(name, ranks, count, chunks)
    stages = action_arrays(program).num_stages
    costs = []
    for _ in range(stages):
        times = {field: draw(EVEN_PS) for field in (*TIMES, *ONCE)}
        costs.append(StageCosts(**times, reduce_each_micro_batch=draw(st.booleans())))
    return program, tuple(costs)


def scaled(costs: tuple[StageCosts, ...], by: float, *names: str) -> tuple[StageCosts, ...]:
    return tuple(replace(c, **{n: getattr(c, n) * by for n in names}) for c in costs)


@settings(max_examples=60, deadline=None)
@given(played())
def test_halving_all_durations_halves_the_step(given_) -> None:  # type: ignore[no-untyped-def]
    program, costs = given_
    half = scaled(costs, 0.5, *TIMES, *ONCE)
    assert simulate(program, half).step_s * 2 == pytest.approx(
        simulate(program, costs).step_s, abs=2e-12
    )


@settings(max_examples=60, deadline=None)
@given(played(), st.sampled_from((*TIMES, *ONCE)), st.sampled_from([0.0, 0.5]))
def test_a_shorter_duration_or_faster_link_never_lengthens_the_step(  # type: ignore[no-untyped-def]
    given_, name: str, by: float
) -> None:
    program, costs = given_
    tape = lower(program)
    assert fast_step_s(tape, scaled(costs, by, name)) <= fast_step_s(tape, costs)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([n for n in CHANGES if n != "network_latency"]))
def test_a_better_machine_is_never_slower_for_a_plan(data: st.DataObject, name: str) -> None:
    plan = data.draw(st.sampled_from(candidates()))

    def step_s(cluster: Cluster) -> float:
        return predict(compile_plan(WORKLOAD, cluster, plan)).step_s

    better = data.draw(st.sampled_from([1.1, 2.0, 10.0]))
    assert step_s(changed(CLUSTER, name, better)) <= step_s(CLUSTER)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 400), min_size=2, max_size=12), st.sampled_from([0.3, 0.6, 0.9]))
def test_more_candidates_or_memory_never_worsen_the_optimum(chosen: set[int], ratio: float) -> None:
    plans = candidates()
    some = [plans[n % len(plans)] for n in sorted(chosen)]

    def best_s(among: list[Plan], memory_ratio: float) -> float:
        best = exhaustive(WORKLOAD, CLUSTER, among, memory_ratio=memory_ratio).best
        return float("inf") if best is None or best.step_s is None else best.step_s

    fewer = best_s(some[:-1], ratio)
    assert best_s(some, ratio) <= fewer
    assert best_s(some[:-1], ratio + 0.1) <= fewer
    assert best_s(some[::-1], ratio) == best_s(some, ratio)


def right() -> tuple[object, StepRecord]:
    """Two stages, two micro-batches, in picoseconds."""
    lists = action_arrays(make_program("gpipe", 2, 2))
    start = np.array([0, 1, 6, 8, 1, 2, 3, 5])  # rank 0: F F B B; rank 1: F F B B
    end = np.array([1, 2, 8, 10, 2, 3, 5, 7])
    return lists, StepRecord(
        start=start, end=end, send_start=end, send_end=end, spans=(), end_ps=10
    )


def test_a_step_that_cannot_be_is_noticed() -> None:
    lists, sound = right()
    order = [(str(i)) for rank in make_program("gpipe", 2, 2) for i in rank]
    assert order == ["0F0", "0F1", "0B0", "0B1", "1F0", "1F1", "1B0", "1B1"]
    check_simulated(lists, sound)  # type: ignore[arg-type]
    for place, begin, over, why in (
        (1, 0, 2, "two things at once"),
        (3, 7, 8, "two things at once"),
        (3, 6, 9, "two things at once"),
        (4, 0, 1, "a forward begins before its input"),
        (2, 4, 6, "a backward begins before its input"),
        (7, 5, 4, "ends before it begins"),
        (0, -1, 1, "ends before it begins"),
        (3, 8, 11, "over before its last event"),
    ):
        start, end = sound.start.copy(), sound.end.copy()
        start[place], end[place] = begin, over
        with pytest.raises(AssertionError, match=why):
            check_simulated(lists, replace(sound, start=start, end=end))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [7, 9])
def test_durations_are_as_many_as_actions(count: int) -> None:
    costs = [StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0)] * 2
    with pytest.raises(ParplanError, match=f"durations_ps: {count} durations for 8 actions"):
        simulate(make_program("gpipe", 2, 2), costs, durations_ps=[1] * count)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, 2.0**62 / 1e12])
def test_what_is_no_time_is_refused_by_both_players(seconds: float) -> None:
    program = make_program("gpipe", 2, 2)
    for name in ("forward_s", "send_s", "latency_s", "reduce_s", "optimizer_s", "gather_s"):
        times = dict.fromkeys(("forward_s", "input_gradient_s", "weight_gradient_s"), 1.0)
        with pytest.raises(ParplanError, match=r"^costs: "):
            simulate(program, [StageCosts(**{**times, name: seconds})] * 2)
        with pytest.raises(ParplanError, match=r"^costs: "):
            fast_step_s(lower(program), [StageCosts(**{**times, name: seconds})] * 2)


def test_all_costs_are_scaled() -> None:
    counts = {"reduce_buckets", "reduce_each_micro_batch", "overlap_share", "post_validation"}
    assert {f.name for f in fields(StageCosts)} == {*TIMES, *ONCE, *counts}
