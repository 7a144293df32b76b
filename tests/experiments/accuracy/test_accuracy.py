"""Measures of accuracy, worked out by hand on made-up outcomes."""

import dataclasses

import pytest

from parplan.experiments.cases.accuracy import (
    errors_of,
    ranks_of,
    repeats_of,
    sweeps_of,
    verdicts_of,
)
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.request import request_of
from tests.experiments.cases.published_cases import case


def outcome(
    predicted_s: float | None = None,
    measured_s: float | None = None,
    *,
    group: str = "a",
    batch: int = 32,
    peak: float | None = None,
    reported_gb: float | None = None,
    oom: bool = False,
) -> Outcome:
    measured: dict[str, object] = {"oom": oom}
    if measured_s is not None:
        measured["step_time_s"] = measured_s
    if reported_gb is not None:
        measured["peak_memory_gb"] = reported_gb
    one = case(group=group, measured=measured, parallel__global_batch=batch)
    # An A100 of 80 GB.
    return Outcome(
        case=one,
        request=request_of(one),
        step_s=predicted_s,
        peak_bytes=peak,
        reported_bytes=peak,
    )


def test_errors_are_relative_to_what_was_measured() -> None:
    assert outcome(1.1, 1.0).error == pytest.approx(0.1)
    assert outcome(1.0, 2.0).error == pytest.approx(-0.5)
    assert outcome(None, 2.0).error is None
    assert outcome(1.0, None).error is None
    assert outcome(peak=30e9, reported_gb=40).memory_error == pytest.approx(-0.25)
    assert outcome(peak=30e9).memory_error is None


def test_errors_are_summed_up() -> None:
    errors = errors_of([-0.3, None, 0.1, -0.2, 0.4])
    assert errors is not None
    assert errors.count == 4
    assert errors.median == pytest.approx(0.25)
    assert errors.mean == pytest.approx(0.25)
    assert errors.bias == pytest.approx(-0.05)
    assert errors.p90 == pytest.approx(0.4)
    assert errors_of([None]) is None
    assert errors_of([]) is None


def test_nine_of_ten_errors_are_at_most_the_90th_percentile() -> None:
    errors = errors_of([0.01 * i for i in range(100)])
    assert errors is not None
    assert errors.p90 == pytest.approx(0.9)


def test_ranks_are_those_of_kendall() -> None:
    # Of three pairs two in the measured order, one not: tau = (2 - 1) / 3.
    sweep = [outcome(1.0, 1.0), outcome(3.0, 2.0), outcome(2.0, 3.0)]
    ranks = ranks_of(sweep)
    assert ranks is not None
    assert ranks.sweeps == 1
    assert ranks.tau == pytest.approx(1 / 3)
    assert ranks.regret == 0.0


def test_regret_is_what_the_predicted_choice_costs() -> None:
    backwards = [outcome(3.0, 1.0), outcome(2.0, 1.2), outcome(1.0, 1.5)]
    ranks = ranks_of(backwards)
    assert ranks is not None
    assert ranks.tau == pytest.approx(-1.0)
    assert ranks.regret == pytest.approx(0.5)


def test_sweeps_count_alike_whatever_their_length() -> None:
    right = [outcome(float(i), float(i), batch=32) for i in range(1, 9)]
    wrong = [outcome(float(i), 10.0 - i, batch=64) for i in range(1, 4)]
    ranks = ranks_of([*right, *wrong])
    assert ranks is not None
    assert ranks.sweeps == 2
    assert ranks.tau == pytest.approx(0.0)
    assert ranks.regret == pytest.approx((9 / 7 - 1) / 2)


def test_ranks_need_three_runs_with_times() -> None:
    assert ranks_of([outcome(1.0, 1.0), outcome(2.0, 2.0)]) is None
    assert ranks_of([outcome(1.0, 1.0), outcome(2.0, 2.0), outcome(3.0, oom=True)]) is None


def test_sweeps_hold_what_differs_in_the_plan_alone() -> None:
    alike = [outcome(1.0, 1.0), outcome(2.0, 2.0)]
    others = [outcome(1.0, 1.0, group="b"), outcome(1.0, 1.0, batch=64)]
    assert sorted(map(len, sweeps_of([*alike, *others]))) == [1, 1, 2]
    first = alike[0]
    kernel = case(measured={"step_time_s": 1.0}, group="a", parallel__attention_kernel="flash")
    assert len(sweeps_of([first, dataclasses.replace(first, case=kernel)])) == 2


def test_sweeps_do_not_cross_the_day_on_which_nodes_became_faster() -> None:
    first = outcome(1.0, 1.0, group="bloom")
    days = [
        dataclasses.replace(first, case=dataclasses.replace(first.case, notes=f"date {day}; x"))
        for day in ("02-21", "02-23", "02-25", "02-28")
    ]
    assert sorted(map(len, sweeps_of(days))) == [2, 2]


def test_verdicts_on_memory_are_balanced() -> None:
    # Of 80 GB, less what fragmentation and the driver take of it.
    ran = [outcome(peak=peak) for peak in (40e9, 70e9, 90e9, 100e9)]
    failed = [outcome(peak=peak, oom=True) for peak in (90e9, 60e9)]
    verdicts = verdicts_of([*ran, *failed])
    assert verdicts is not None
    assert (verdicts.ran, verdicts.ran_right) == (4, 2)
    assert (verdicts.out_of_memory, verdicts.out_of_memory_right) == (2, 1)
    assert verdicts.balanced_accuracy == pytest.approx(0.5)


def test_verdicts_are_of_sources_that_record_failures() -> None:
    failed = outcome(peak=90e9, oom=True)
    others = [outcome(peak=40e9, group="b") for _ in range(5)]
    assert verdicts_of(others) is None
    verdicts = verdicts_of([failed, outcome(peak=40e9), *others])
    assert verdicts is not None
    assert verdicts.ran == 1


def test_a_run_is_predicted_or_says_why_not() -> None:
    done = evaluate(case())
    assert done.reason == ""
    assert done.step_s is not None
    assert done.step_s > 0
    assert done.fits is True
    refused = evaluate(case(hardware__key="Z80"))
    assert refused.step_s is None
    assert refused.fits is None
    assert "Z80" in refused.reason


def test_more_accelerators_than_fit_a_batch_are_refused_with_a_reason() -> None:
    assert "cannot be split" in evaluate(case(parallel__global_batch=2)).reason


def test_low_rank_adapters_take_less_time_and_memory_than_whole_training() -> None:
    adapters, whole = evaluate(case(task="LoRA")), evaluate(case(task="Pre-Training"))
    assert adapters.request is not None
    assert adapters.request.workload.lora_rank == 16
    assert adapters.step_s is not None
    assert whole.step_s is not None
    assert whole.peak_bytes is not None
    assert adapters.peak_bytes is not None
    assert adapters.step_s < whole.step_s
    assert adapters.peak_bytes < whole.peak_bytes


def test_repeats_are_alike_or_say_so() -> None:
    alike = [outcome(1.0, measured) for measured in (0.9, 1.1, 1.0)]
    other = outcome(1.0, 2.0, batch=64)
    case_of_other = dataclasses.replace(other.case, id="first")
    again = dataclasses.replace(
        other.case,
        id="second",
        repeat_of="first",
        precision="fp16",
        measured=alike[0].case.measured,
    )
    told = [dataclasses.replace(other, case=one) for one in (case_of_other, again)]
    found = repeats_of([*alike, *told])
    assert found is not None
    assert (found.configurations, found.runs) == (2, 5)
    # 0.1 around 1.0, and 0.55 around 1.45.
    assert found.spread == pytest.approx((0.1 + 0.55 / 1.45) / 2)
    assert repeats_of([alike[0], other]) is None
