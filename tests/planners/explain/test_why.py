"""What single changes of the chosen plan would cost, and in which words."""

import dataclasses

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.why import (
    Change,
    best_of_kinds,
    binding,
    changed_field,
    changes,
    close_trials,
    plan_label,
)
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.report import Report
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.memory.peak import GB
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import framework
from parplan.sim.workload import Workload

WORK = Workload(
    model=model_preset("llama3-8b"), seq_len=4096, global_batch=16, framework=framework("fused")
)
CLUSTER = cluster_preset("8xh100")
RATIO = 0.8


@pytest.fixture(scope="module")
def space() -> Space:
    return make_space(WORK, CLUSTER, Constraints(schedule=("1f1b", "gpipe"), memory_ratio=RATIO))


@pytest.fixture(scope="module")
def report(space: Space) -> Report:
    return exhaustive(WORK, CLUSTER, list(space), memory_ratio=RATIO)


@pytest.fixture(scope="module")
def found(report: Report) -> tuple[Change, ...]:
    assert report.best is not None
    return changes(WORK, CLUSTER, report.best, report.trials, memory_ratio=RATIO)


def test_each_change_is_of_one_dimension_and_timed_as_the_simulator_does(
    report: Report, found: tuple[Change, ...]
) -> None:
    best = report.best
    assert best is not None
    assert best.step_s is not None
    assert len({(c.field, c.after) for c in found}) == len(found) > 5
    assert [c.extra_s for c in found] == sorted(c.extra_s for c in found)
    for change in found:
        assert changed_field(best.plan, change.trial.plan) == change.field
        step_s = predict(compile_plan(WORK, CLUSTER, change.trial.plan)).step_s
        assert change.trial.step_s == step_s
        assert change.extra_s == pytest.approx(step_s - best.step_s)
        assert change.extra_share == pytest.approx(step_s / best.step_s - 1)


def test_what_fits_is_not_faster_and_what_does_not_lacks_memory(
    found: tuple[Change, ...],
) -> None:
    limit = RATIO * CLUSTER.accelerator.memory_bytes
    assert any(not c.fits for c in found)
    for change in found:
        if change.fits:
            assert change.extra_s >= 0
            assert change.missing_bytes == 0
        else:
            assert change.missing_bytes == max(change.trial.memory_bytes) - limit > 0
            number = int(change.fullest.split()[1])
            assert change.trial.memory_bytes[number] == max(change.trial.memory_bytes)


def test_a_planner_that_tried_one_plan_is_told_of_the_others(space: Space, report: Report) -> None:
    slow = max((t for t in report.trials if t.step_s), key=lambda t: t.step_s or 0.0)
    found = changes(WORK, CLUSTER, slow, [slow], memory_ratio=RATIO, space=space)
    assert {c.trial.plan for c in found} <= set(space.neighbours(slow.plan))
    assert found[0].extra_s < 0
    assert "a change that was not searched is faster" in binding(found)


def change(extra: float, missing: float = 0.0, field: str = "batch_per_device") -> Change:
    plan = Plan(data_parallel=8, num_micro_batches=2)
    trial = Trial(plan=plan, reason="too large" if missing else "", memory_bytes=(1.0,))
    return Change(
        field=field,
        before="1",
        after="2",
        trial=trial,
        extra_s=extra,
        extra_share=extra,
        missing_bytes=missing,
        fullest="stage 0" if missing else "",
    )


def test_the_words() -> None:
    lacks = change(-0.04, 3.1 * GB)
    assert lacks.verdict == "4.0% faster, but needs 3.1 GB more on stage 0"
    assert change(0.04, 3.1 * GB).verdict == "4.0% slower, and needs 3.1 GB more on stage 0"
    assert change(0.04).verdict == "4.0% slower"
    assert change(0.0001).verdict == "as fast"
    assert change(-0.04, 1.0).verdict.endswith("needs 0.1 GB more on stage 0")
    more = change(-0.5, 9 * GB, "num_stages")
    assert (
        binding([more, lacks]) == f"memory binds: batch_per_device 1 -> 2 would be {lacks.verdict}"
    )
    assert binding([change(0.1)]).endswith("the nearest: batch_per_device 1 -> 2: 10.0% slower")
    assert binding([change(0.1, GB)]) == "no other value of any dimension is possible"


def plan(**given: object) -> Plan:
    fields = {"data_parallel": 8, "num_micro_batches": 2, **given}
    return Plan(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({}, None),
        ({"recomputation": "full"}, "recomputation"),
        (zero_fields(3), "zero_stage"),
        ({"recomputation": "full", **zero_fields(3)}, None),
        ({"batch_per_device": 2, "num_micro_batches": 1}, "batch_per_device"),
        # What comes with the first of something is not a change of its own.
        ({"tensor_parallel": 2, "sequence_parallel": True, "data_parallel": 4}, "tensor_parallel"),
        ({"num_stages": 2, "schedule": "gpipe", "data_parallel": 4}, "num_stages"),
        ({"num_stages": 2, "tensor_parallel": 2, "data_parallel": 2}, None),
    ],
)
def test_which_field_differs(other: dict[str, object], field: str | None) -> None:
    assert changed_field(plan(), plan(**other)) == field


def test_schedules_and_chunks_are_told_apart() -> None:
    two = plan(num_stages=2, data_parallel=4)
    assert changed_field(two, dataclasses.replace(two, schedule="gpipe")) == "schedule"
    chunks = dataclasses.replace(two, schedule="interleaved-1f1b", virtual_stages=2)
    assert changed_field(two, chunks) == "schedule"
    assert changed_field(chunks, dataclasses.replace(chunks, virtual_stages=4)) == "virtual_stages"


def test_close_plans_and_the_best_of_each_kind(report: Report) -> None:
    best = report.best
    assert best is not None
    assert best.step_s is not None
    close = close_trials(report.trials, best, 0.05)
    timed = [t for t in report.trials if t.step_s is not None and t.plan != best.plan]
    assert close == sorted(
        (t for t in timed if t.step_s <= 1.05 * best.step_s), key=lambda t: t.step_s or 0
    )
    kinds = best_of_kinds(report.trials, best, 100, within=100.0)
    assert kinds[0] == best
    assert len({plan_label(t.plan) for t in kinds}) == len(kinds)
    pipelines = [t for t in timed if t.plan.num_stages > 1 and point_of(t.plan)]
    assert min(t.step_s or 0 for t in pipelines) in [t.step_s for t in kinds]
    assert best_of_kinds(report.trials, best, 2, within=100.0) == kinds[:2]
    assert best_of_kinds(report.trials, best, 100, within=-0.5) == [best]


def test_a_plan_in_few_words() -> None:
    assert plan_label(plan(recomputation="full", **zero_fields(2))) == (
        "DP 8, ZeRO-2, full recomputation, 2 x 1"
    )
    assert plan_label(Plan(num_stages=2, num_micro_batches=4)) == "PP 2, 1f1b, 4 x 1"
    assert plan_label(Plan()) == "one device, 1 x 1"
