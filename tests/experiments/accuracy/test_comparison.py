"""Comparisons of predicted and measured on made-up runs."""

import pytest

from parplan.backend.execution.result import Executed, Execution, HandWritten
from parplan.errors import ParplanError
from parplan.experiments.accuracy.comparison import CATEGORIES, attribution, categories, compare_set
from parplan.experiments.benchmarks.execution import overheads, plans, workload
from parplan.sim.plan import Plan, check_plan
from parplan.sim.run import Event, Run


def run(scale: float, source: str, bubble_s: float = 1.0) -> Run:
    """Two ranks, whose second one waits: begin 0.5, actions, a reduction, a gap, the optimizer."""
    events = [
        Event(0, "compute", "0F0", 0.5, 0.5 + 4 * scale),
        Event(1, "compute", "1F0", 0.5 + bubble_s, 0.5 + 4 * scale),
        Event(1, "data-parallel", "reduce 1", 0.5 + 4 * scale, 1.5 + 4 * scale),
        Event(1, "send", "1F0>2", 0.0, 9.0),
        Event(0, "compute", "optimizer 0", 2.0 + 4 * scale, 3.0 + 4 * scale),
        Event(1, "compute", "optimizer 1", 2.0 + 4 * scale, 3.0 + 4 * scale),
    ]
    return Run(step_s=3.0 + 4 * scale, events=tuple(events), source=source)


def executed(
    predicted: float, measured: float, *, spread: float = 0.0, plan: Plan | None = None
) -> Executed:
    step_s = run(measured, "measured").step_s
    samples = tuple(step_s * (1 + s) for s in (-spread, -spread, 0.0, spread, spread))
    return Executed(
        plan=plan or Plan(num_stages=2),
        predicted=run(predicted, "predicted"),
        measured=run(measured, "measured"),
        profiled=run(measured, "profiled"),
        predicted_exposed_s={"data-parallel": 0.3, "optimizer": 0.2},
        measured_exposed_s={"data-parallel": 0.1, "tensor-parallel": 0.4},
        samples_s=samples,
        loss_difference=1e-7,
        predicted_bytes=(100.0, 90.0),
        measured_bytes=(100.0, 80.0),
    )


def test_categories_are_what_the_events_say_and_sum_to_the_step() -> None:
    found = categories(
        run(1.0, "measured"), {"data-parallel": 0.25, "optimizer": 0.5}, is_pipeline=True
    )
    assert found == pytest.approx(
        {
            "compute": 3.5 - 0.25,
            "data-parallel": 0.5 + 0.25 + 0.5,
            "tensor-parallel": 0.0,
            "optimizer": 0.5,
            "overhead": 0.5 + 0.5,
            "pipeline": 7.0 - 3.5 - 0.5 - 1.0 - 1.0,
        }
    )
    alone = categories(run(1.0, "measured"), {}, is_pipeline=False)
    assert alone["pipeline"] == 0.0
    assert sum(alone.values()) == pytest.approx(7.0)


def test_the_attribution_sums_to_the_error() -> None:
    one = executed(1.2, 1.0)
    parts = attribution(one)
    assert list(parts) == list(CATEGORIES)
    assert sum(parts.values()) == pytest.approx(one.error)
    assert parts["tensor-parallel"] == pytest.approx(-0.4 / 7)


def test_the_memory_error_is_that_of_the_worst_process() -> None:
    assert executed(1.0, 1.0).memory_error == pytest.approx(90 / 80 - 1)


def test_a_set_counts_pairs_beyond_noise_and_the_regret_of_the_pick() -> None:
    quick, slow, other = executed(1.05, 1.0), executed(1.0, 1.2), executed(2.0, 2.0, spread=0.5)
    found = compare_set([quick, slow, other])
    # quick and slow are in the wrong order; other, 11 s, is within its 5.5 s of both.
    assert (found.pairs, found.all_pairs) == (1, 3)
    assert found.tau == -1
    assert (found.pick, found.best) == (slow, quick)
    assert found.regret == pytest.approx(7.8 / 7 - 1)
    noisy = executed(1.0, 1.2, spread=0.5)
    assert compare_set([quick, noisy]).tau is None
    assert compare_set([quick]).mean_absolute_error == pytest.approx(quick.error)


def test_an_execution_is_read_as_it_was_written(tmp_path) -> None:
    plan = Plan(data_parallel=2)
    execution = Execution(
        workload=workload(),
        num_processes=2,
        calibration=[{"plan": {}}],
        candidates=((plan, 1.5),),
        executed=(executed(1.0, 1.1),),
        out_of_memory=(plan,),
        hand_written=(HandWritten(name="by hand", plan=0, samples_s=(7.0, 7.0, 7.2, 7.0, 7.0)),),
    )
    assert Execution.from_json(execution.to_json()) == execution
    (line,) = overheads(execution)
    assert line.endswith("+5.7% in the medians, +5.7% in the median of the ratios step by step")
    with pytest.raises(ParplanError, match="x: not an execution of format 1"):
        Execution.from_json({"format": 0}, "x")


def test_the_benchmark_has_enough_plans_of_every_kind() -> None:
    found = plans()
    assert len(found) == len(set(found)) >= 24
    for plan in found:
        check_plan(plan, workload(), 2)
    assert {plan.zero_stage for plan in found} == {0, 1, 2, 3}
    assert {(plan.tensor_parallel, plan.sequence_parallel) for plan in found} >= {
        (2, False),
        (2, True),
    }
    assert {p.schedule for p in found if p.num_stages > 1} >= {"gpipe", "zb-h1", "zb-v"}
    small = plans(small=True)
    assert set(small) < set(found)
