"""Bias by kind of plan: medians by runs and by sources, and how far the kinds are apart."""

import dataclasses
import itertools

from parplan.experiments.accuracy.kinds import FEWEST, kinds
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.sim.analysis.residuals import setup_of
from tests.experiments.cases.published_cases import case

NEITHER = evaluate(case())
SHARDED = evaluate(case(parallel__zero_stage=3))
PIPELINE = evaluate(case(parallel__pp=2, parallel__tp=1))


def runs(like: Outcome, group: str, count: int, error: float) -> list[Outcome]:
    """Runs of a source that are predicted with this error."""
    assert like.step_s is not None
    source = case(group=group, measured={"step_time_s": like.step_s / (1 + error)})
    found = dataclasses.replace(like, case=source)
    assert found.error is not None
    return [found] * count


def test_kinds_are_compared_by_runs_and_by_sources() -> None:
    assert [setup_of(o.request.plan) for o in (SHARDED, PIPELINE, NEITHER) if o.request] == [
        "ZeRO-3",
        "pipeline",
        "neither",
    ]
    outcomes = itertools.chain(
        runs(SHARDED, "large", 20, -0.1),
        *(runs(SHARDED, name, 1, 0.05) for name in ("a", "b")),
        runs(NEITHER, "large", FEWEST, 0.0),
        runs(PIPELINE, "large", FEWEST - 1, 0.5),
        runs(NEITHER, "vtrain-single", 50, 0.9),
    )
    lines = [line.split() for line in kinds(list(outcomes)).splitlines()]
    assert lines[1:] == [
        ["Ampere", "ZeRO-3", "22", "3", "-10.0%", "+5.0%"],
        ["Ampere", "neither", str(FEWEST), "1", "+0.0%", "+0.0%"],
        ["Ampere", "furthest", "apart", "10.0", "points", "5.0", "points"],
    ]
