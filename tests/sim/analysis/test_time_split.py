"""Where the time of a step goes: nothing negative, nothing left out, everything in its place."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.analysis.bubble import bubble_by_cause
from parplan.sim.analysis.time_split import BUBBLE, PARTS, TimeSplit, time_split
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD, framework
from parplan.sim.software.habits import Software
from parplan.sim.software.presets import preset
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xh100")


def workload(model: str = "llama3-8b", **given: object) -> Workload:
    fields = {"seq_len": 4096, "global_batch": 16, "framework": framework("fused"), **given}
    return Workload(model=model_preset(model), **fields)  # type: ignore[arg-type]


def split_of(plan: Plan, work: Workload | None = None) -> TimeSplit:
    work = workload() if work is None else work
    compiled = compile_plan(work, CLUSTER, plan)
    return time_split(work, CLUSTER, compiled, predict(compiled))


def spaces() -> list[Space]:
    beside = Software(overlap_expert_exchange=True, expert_dispatch="nodes")
    works = [
        *(workload(), workload("mixtral-8x7b"), workload(framework=framework("eager"))),
        *(workload("mixtral-8x7b", software=own) for own in (beside, Software(step_graph=True))),
        workload(software=preset("moai").software, framework=NO_OVERHEAD),
    ]
    return [make_space(work, CLUSTER, Constraints()) for work in works]


SPACES = spaces()


@given(st.sampled_from(SPACES), st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_no_part_is_negative_and_they_sum_to_the_step(
    space: Space, number: int, beside: bool, overlap: bool
) -> None:
    plan = dataclasses.replace(
        space[number % len(space)],
        overlap_gradient_reduction=beside,
        overlap_tensor_parallel=overlap,
    )
    found = split_of(plan, space.workload)
    assert set(found.seconds) == set(PARTS)
    assert min(found.seconds.values()) >= 0
    assert math.fsum(found.seconds.values()) == pytest.approx(found.step_s, rel=1e-12)
    assert found.share(*PARTS) == pytest.approx(1.0)


@given(st.sampled_from(SPACES), st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_the_parts_of_the_bubble_are_those_of_the_run(space: Space, number: int) -> None:
    plan = space[number % len(space)]
    compiled = compile_plan(space.workload, CLUSTER, plan)
    run = predict(compiled)
    causes = bubble_by_cause(compiled.schedule, run)
    found = time_split(space.workload, CLUSTER, compiled, run)
    waits = ("messages", "gradient reduction", "parameter gather") if plan.zero_stage < 3 else ()
    own = {"warm-up": "warm_up", "dependency": "dependency", "drain": "drain", "end": "end"}
    for part in BUBBLE:
        assert found.share(part) == pytest.approx(causes[own[part]], abs=1e-9)
    if waits:
        assert found.share(*BUBBLE, *waits) == pytest.approx(run.bubble, abs=1e-9)


def plan(**given: object) -> Plan:
    fields = {"data_parallel": 8, "num_micro_batches": 2, **given}
    return Plan(**fields)  # type: ignore[arg-type]


def test_each_kind_of_parallelism_has_its_part() -> None:
    plain = split_of(plan())
    assert plain.seconds["gradient reduction"] > 0
    for part in ("tensor exchange", "expert exchange", "recomputation", "parameter gather"):
        assert plain.seconds[part] == 0
    assert split_of(plan(recomputation="full")).seconds["recomputation"] > 0
    assert split_of(plan(**zero_fields(3))).seconds["parameter gather"] > 0
    assert split_of(plan(**zero_fields(1))).seconds["parameter gather"] > 0
    tensor = plan(data_parallel=1, tensor_parallel=8, num_micro_batches=16)
    assert split_of(tensor).seconds["tensor exchange"] > 0
    stages = split_of(plan(data_parallel=2, num_stages=4, num_micro_batches=8))
    assert stages.seconds["warm-up"] > 0
    assert stages.seconds["messages"] > 0
    experts = split_of(plan(expert_parallel=8), workload("mixtral-8x7b"))
    assert experts.seconds["expert exchange"] > 0


def test_what_the_software_costs_is_neither_compute_nor_bubble() -> None:
    slow = framework("eager")
    quiet = dataclasses.replace(NO_OVERHEAD, kernel_slowdown=slow.kernel_slowdown)
    tiny = {"seq_len": 256, "global_batch": 16}
    eager = split_of(plan(), workload(framework=slow, **tiny))
    alone = split_of(plan(), workload(framework=quiet, **tiny))
    assert alone.seconds["launch"] == pytest.approx(0, abs=1e-9)
    assert alone.seconds["software"] == 0
    assert eager.seconds["launch"] > 0
    assert eager.seconds["software"] == pytest.approx(slow.step_s)
    assert eager.seconds["compute"] == pytest.approx(alone.seconds["compute"], rel=1e-6)


def test_slowed_kernels_are_compute() -> None:
    twice = dataclasses.replace(NO_OVERHEAD, kernel_slowdown=2.0)
    one = split_of(plan(), workload(framework=NO_OVERHEAD)).seconds
    two = split_of(plan(), workload(framework=twice)).seconds
    assert two["compute"] == pytest.approx(2 * one["compute"], rel=1e-9)


def test_schedules_change_the_bubble_and_not_the_work() -> None:
    fields = {"data_parallel": 2, "num_stages": 4, "num_micro_batches": 8}
    one, other = (split_of(plan(schedule=name, **fields)).seconds for name in ("1f1b", "gpipe"))
    for part in ("compute", "launch", "software", "optimizer"):
        assert other[part] == pytest.approx(one[part], rel=1e-6)
    paired = split_of(plan(schedule="dualpipe-v", virtual_stages=2, **fields)).seconds
    assert paired["compute"] == pytest.approx(one["compute"], rel=1e-6)
