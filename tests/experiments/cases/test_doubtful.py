"""Doubts about measured values: each kind is told, and what is plausible is not."""

import dataclasses
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.experiments.accuracy.table import DOUBTS_SHOWN, doubt_lines, row, summary
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.held_out import CALIBRATION
from parplan.experiments.cases.read import read_cases
from tests.experiments.cases.published_cases import case

# By its data sheet eight A100 have 2.496e15 FLOP/s in 16 bits; the step of `case` needs 2.3e13.
TOKENS = 1024 * 32


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"step_time_s": 500.0}, ["step_time_s 500 is", "in milliseconds?"]),
        ({"step_time_s": 5e5}, ["in microseconds?"]),
        ({"step_time_s": 0.002}, ["step_time_s 0.002 is", "of the peak rate in bf16", "minutes?"]),
        ({"step_time_s": 1e5}, ["less than is plausible"]),
        ({"tokens_per_s_per_gpu": TOKENS / 0.05}, ["of all 8 accelerators together?"]),
        ({"tokens_per_s": TOKENS / 3.0}, ["tokens_per_s", "of one of 8 accelerators?"]),
        ({"samples_per_s": 32 / 0.001}, ["samples_per_s 32000 is", "of the peak rate"]),
        (
            {"step_time_s": 0.5, "tokens_per_s": TOKENS / 0.8},
            ["step_time_s means a step of 0.5 s and tokens_per_s one of 0.8 s", "contradict"],
        ),
        ({"step_time_s": 0.5, "tflops_per_gpu": 150.0}, ["tflops_per_gpu 150 contradicts"]),
        ({"step_time_s": 0.5, "mfu": 0.5}, ["mfu 0.5 contradicts the step"]),
        ({"step_time_s": 0.05, "mfu": 19.0}, ["mfu 19 is above 100 %", "in per cent?"]),
        ({"oom": True, "step_time_s": 0.05}, ["ran out of memory has a step time"]),
        ({"peak_memory_gb": 95.0}, ["more than the 85.2 GB of a a100-sxm-80gb"]),
        ({"peak_memory_gb": 20480.0}, ["peak_memory_gb 20480", "in MB?"]),
        ({"peak_memory_gib": 0.1}, ["peak_memory_gib 0.1 is less than half"]),
    ],
)
def test_each_kind_of_doubt_is_told(measured: dict[str, Any], words: list[str]) -> None:
    outcome = evaluate(case(measured=measured))
    text = "\n".join(outcome.doubts)
    assert all(word in text for word in words), outcome.doubts


@pytest.mark.parametrize(
    "measured",
    [
        {"step_time_s": 0.05},
        {"step_time_s": 0.5, "tokens_per_s": TOKENS / 0.5, "samples_per_s": 64},
        # Another count of operations: with recomputation, half of the attention.
        {"step_time_s": 0.05, "tflops_per_gpu": 80.0, "mfu": 0.16},
        {"peak_memory_gb": 80.0},
        {"samples_per_s": 0, "step_time_s": 0.05},
        {"oom": True},
    ],
)
def test_what_is_plausible_is_not_doubted(measured: dict[str, Any]) -> None:
    assert evaluate(case(measured=measured)).doubts == ()


def test_a_rate_in_whole_samples_may_be_cut_off() -> None:
    measured = {"tokens_per_s": TOKENS / 17.0, "samples_per_s": 1}
    assert evaluate(case(model__layers=96, measured=measured)).doubts == ()
    measured = {"tokens_per_s": TOKENS / 17.0, "samples_per_s": 0.8}
    assert len(evaluate(case(model__layers=96, measured=measured)).doubts) == 1


def test_a_run_that_is_not_predicted_may_contradict_itself() -> None:
    measured = {"step_time_s": 0.5, "tokens_per_s": TOKENS / 5}
    outcome = evaluate(case(hardware__key="Z80", measured=measured))
    assert outcome.step_s is None
    (doubt,) = outcome.doubts
    assert "contradict each other" in doubt


def test_every_doubtful_run_is_counted_and_the_first_are_printed() -> None:
    bad = evaluate(case(measured={"step_time_s": 500.0, "mfu": 40.0}))
    good = Outcome(case=case())
    many = [dataclasses.replace(bad)] * (DOUBTS_SHOWN + 3)
    assert f"measured values of 1 of 2 runs\n  made-up-1: {bad.doubts[0]}" in summary([good, bad])
    assert "doubtful" not in summary([good])
    lines = doubt_lines(many)
    assert len(lines) == DOUBTS_SHOWN * len(bad.doubts) + 1
    assert lines[-1].startswith("and 3 more")
    assert row(bad)["doubtful"] == "; ".join(bad.doubts)


def test_published_runs_that_constants_are_fitted_to_are_plausible() -> None:
    few = read_cases(CALIBRATION)[::9]
    assert [outcome.doubts for case in few if (outcome := evaluate(case)).doubts] == []


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        ({"step_time_s": 0}, "measured: step_time_s: must be positive, got 0"),
        ({"step_time_s": -1.5}, "measured: step_time_s: must be positive, got -1.5"),
        ({"tokens_per_s": -2}, "measured: tokens_per_s: must be at least 0, got -2"),
        ({"peak_memory_gb": 0}, "measured: peak_memory_gb: must be positive"),
    ],
)
def test_a_measured_value_below_zero_is_refused(measured: dict[str, Any], message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        case(measured=measured)


def test_a_note_of_another_memory_is_heard() -> None:
    noted = case(hardware__key="H100", hardware__note="H100 SXM 96GB HBM2e 2.4TB/s, 500 W limit")
    outcome = evaluate(noted)
    assert outcome.request is not None
    assert 95e9 < outcome.request.cluster.accelerator.memory_bytes < 104e9
