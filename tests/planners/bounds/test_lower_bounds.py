"""The lower bounds are never above what they bound."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.bounds.schedule_bounds import step_bounds_s
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.constraints import SIMULATED, Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.costs import StageCosts
from parplan.sim.fast.fast import fast_many
from parplan.sim.models.model import model_preset
from parplan.sim.schedules import make_program, make_schedule, schedule_kind, why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.step.tape import lower
from parplan.sim.ticks import stage_ticks
from parplan.sim.workload import Workload


@pytest.mark.parametrize(
    ("model", "cluster", "batch", "samples"),
    [
        ("llama3-8b", "8xh100", 64, 600),
        ("gpt3-175b", "64xa100", 64, 300),
        ("mixtral-8x7b", "64xh100", 128, 300),
    ],
)
def test_no_plan_is_faster_or_smaller_than_its_bound(
    model: str, cluster: str, batch: int, samples: int
) -> None:
    workload = Workload(
        model=model_preset(model), seq_len=2048, global_batch=batch, framework=NO_OVERHEAD
    )
    space = make_space(workload, cluster_preset(cluster), Constraints(context_parallel=(1, 2)))
    rng = Random(samples)
    plans = [space.sample(rng) for _ in range(samples)]
    # Memory enough for all, so that all are timed; then as much as there is.
    for ratio in (1000.0, 0.8):
        ask = Evaluator(workload, space.cluster, memory_ratio=ratio)
        bounds = ask.bounds(plans)
        for trial, bound in zip(ask.many(plans), bounds, strict=True):
            if trial.fits:
                assert bound <= (trial.step_s or 0.0), trial.plan
            assert ratio < 1 or trial.fits == (bound < IMPOSSIBLE)


seconds = st.sampled_from([0.0, 1e-12, 0.3, 1.0, 2.5]) | st.floats(0.0, 5.0)
stage = st.builds(
    StageCosts,
    forward_s=seconds,
    input_gradient_s=seconds,
    weight_gradient_s=seconds,
    first_gradient_extra_s=seconds,
    send_s=seconds,
    latency_s=seconds,
    reduce_s=seconds | st.just(100.0),
    reduce_buckets=st.integers(1, 7),
    reduce_each_micro_batch=st.booleans(),
    optimizer_s=seconds,
    gather_s=seconds,
    norm_sync_s=seconds,
    overlap_share=st.floats(0.0, 1.0),
    post_validation=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(SIMULATED),
    ranks=st.integers(1, 5),
    count=st.integers(1, 10),
    virtual=st.integers(1, 3),
)
def test_no_costs_make_a_step_shorter_than_its_bound(
    data: st.DataObject, name: str, ranks: int, count: int, virtual: int
) -> None:
    if why_not(name, ranks, count, virtual):
        return
    size = ranks * virtual
    costs = [data.draw(st.lists(stage, min_size=size, max_size=size)) for _ in range(2)]
    if not schedule_kind(name).one_copy:
        costs = [[replace(own, reduce_each_micro_batch=False) for own in each] for each in costs]
    ticks = stage_ticks(costs)
    exact = fast_many(lower(make_program(name, ranks, count, virtual)), ticks, kernel="python")
    bounds = step_bounds_s(schedule_kind(name), ranks, [count] * len(costs), ticks)
    assert (bounds <= exact).all(), (bounds, exact)


def test_without_a_pipeline_the_bound_is_the_time() -> None:
    costs = [StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, reduce_s=0.5)]
    ticks = stage_ticks([costs])
    for name in ("gpipe", "1f1b"):
        exact = fast_many(lower(make_schedule(name, 1, 4)), ticks)
        assert step_bounds_s(schedule_kind(name), 1, [4], ticks) == exact
