"""Uneven splits: the balanced one is exact, the descent never worse than where it begins."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.algorithms.exact.split import balanced, even_load, improve_split
from parplan.planners.costs.trial import judge
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xh100")
WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=4096, global_batch=16, framework=NO_OVERHEAD
)
PLAN = Plan(num_stages=8, num_micro_batches=16, recomputation="full")


def slowest(blocks: list[float], ends: tuple[float, float], sizes: list[int]) -> float:
    stages, begin = [], 0
    for size in sizes:
        stages.append(sum(blocks[begin : begin + size]))
        begin += size
    stages[0] += ends[0]
    stages[-1] += ends[1]
    return max(stages)


@settings(max_examples=200, deadline=None)
@given(
    blocks=st.lists(st.integers(0, 9).map(float), min_size=1, max_size=8),
    ends=st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(float)),
    data=st.data(),
)
def test_no_other_split_has_a_faster_slowest_stage(
    blocks: list[float], ends: tuple[float, float], data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, len(blocks)))
    found = even_load(blocks, *ends, stages)
    assert len(found) == stages
    assert sum(found) == len(blocks)
    assert min(found) >= 1
    every = [
        [b - a for a, b in zip((0, *cuts), (*cuts, len(blocks)), strict=True)]
        for cuts in combinations(range(1, len(blocks)), stages - 1)
    ]
    assert slowest(blocks, ends, found) == min(slowest(blocks, ends, sizes) for sizes in every)


def step_s(plan: Plan) -> float:
    return predict(compile_plan(WORKLOAD, CLUSTER, plan)).step_s


def test_the_stage_with_the_head_gets_fewer_blocks() -> None:
    layers = balanced(WORKLOAD, CLUSTER, PLAN).stage_layers
    assert layers is not None
    assert layers[-1] < max(layers)


def test_the_descent_is_never_worse_than_where_it_begins() -> None:
    found = improve_split(WORKLOAD, CLUSTER, PLAN, evaluations=300)
    assert found.fits
    assert found.step_s == step_s(found.plan)
    assert judge(WORKLOAD, CLUSTER, 0.8, found.plan).fits
    assert found.step_s <= step_s(PLAN)
    assert found.step_s < step_s(PLAN) or found.plan.stage_layers is None
    assert found.step_s <= step_s(balanced(WORKLOAD, CLUSTER, PLAN))
