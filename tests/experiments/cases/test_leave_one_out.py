"""Leave-one-source-out: constants without a source, and intervals from all others."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from parplan.experiments.accuracy.leave_one_out import leave_one_out_text
from parplan.experiments.cases import leave_one_out
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.fit import SOURCES
from parplan.experiments.cases.leave_one_out import (
    by_source,
    constants_without,
    frameworks_without,
    mean_coverage,
)
from parplan.experiments.cases.read import Case
from parplan.sim.software.framework import Framework, framework
from tests.experiments.cases.published_cases import case


def test_a_framework_is_fitted_to_other_sources_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}

    def fit(cases: Mapping[str, Sequence[Case]], report: Any = None) -> dict[str, Framework]:
        seen.update({name: {one.group for one in own} for name, own in cases.items()})
        return {n: dataclasses.replace(framework(n), kernel_slowdown=1.25) for n in cases}

    monkeypatch.setattr(leave_one_out, "fit_frameworks", fit)
    (own,) = SOURCES["eager"]
    found = frameworks_without(own)
    assert set(found) == {"eager"}
    assert set(seen) == set(SOURCES)
    assert seen["eager"]
    assert all(own not in groups for groups in seen.values())
    assert seen["fused"] == set(SOURCES["fused"])
    cases = [case(group=own), case(group="another")]
    constants = constants_without(cases, print)
    assert set(constants) == {own}
    assert constants[own].kernel_slowdown == 1.25


def test_other_constants_reach_the_runs_of_their_source_alone() -> None:
    slow = dataclasses.replace(framework("fused"), name="slow", kernel_slowdown=2.0)
    plain, other = evaluate(case()), evaluate(case(group="other"), {"made-up": slow})
    changed = evaluate(case(), {"made-up": slow})
    assert plain.step_s is not None
    assert changed.step_s is not None
    assert changed.step_s > 1.3 * plain.step_s
    assert other.step_s == plain.step_s


def made_up(ratio: float, source: int, run: int) -> Outcome:
    """A run that took `ratio` times as long as predicted."""
    one = case(id=f"{source}-{run}", group=f"s{source}")
    done = evaluate(one)
    assert done.step_s is not None
    measured = dataclasses.replace(one.measured, step_time_s=ratio * done.step_s)
    return dataclasses.replace(done, case=dataclasses.replace(one, measured=measured))


def test_intervals_are_from_other_sources() -> None:
    # Ten sources around 1.0 to 1.18, and one far away from them all.
    near = [made_up(1 + 0.02 * source, source, run) for source in range(10) for run in range(3)]
    far = [made_up(2.0, 99, run) for run in range(4)]
    found = {one.group: one for one in by_source([*near, *far])}
    assert found["s99"].covered == found["s99"].covered_by_runs == 0.0
    assert found["s5"].covered == found["s5"].covered_by_runs == 1.0
    assert found["s99"].errors.bias == pytest.approx(-0.5)
    mean = mean_coverage(one.covered for one in found.values())
    assert mean == pytest.approx(sum(one.covered or 0.0 for one in found.values()) / 11)
    text = leave_one_out_text([*near, *far])
    assert f"{mean:.0%} of the runs of a source lie within, " in text


def test_few_sources_give_no_interval() -> None:
    few = [made_up(1.1, source, run) for source in range(3) for run in range(9)]
    assert [one.covered for one in by_source(few)] == [None] * 3
    assert "intervals" not in leave_one_out_text(few)
