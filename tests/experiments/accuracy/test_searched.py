"""`parplan validate --search`: membership, reasons, and what answers claim."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from parplan.experiments.accuracy.searched import (
    differences,
    findings,
    sampled,
    search_summary,
    searched,
    space_of,
    why_not_in,
    with_effect,
)
from parplan.experiments.cases.held_out import VALIDATION
from parplan.experiments.cases.read import read_cases
from parplan.experiments.cases.request import request_of
from parplan.experiments.cli import main
from parplan.sim.plan import zero_fields
from parplan.sim.prediction.predict import compile_plan, predict

CASES = {case.id: case for case in read_cases(VALIDATION)}
SMALL = next(case for case in CASES.values() if case.group == "torchtitan")


def test_what_has_no_effect_on_a_plan_does_not_keep_it_out() -> None:
    plan = request_of(SMALL).plan
    alone = replace(plan, data_parallel=1, context_parallel=1, shard_group=None, **zero_fields(0))
    odd = replace(alone, overlap_gradient_reduction=False, distribute_param=True)
    assert with_effect(odd) == with_effect(alone)
    assert with_effect(with_effect(plan)) == with_effect(plan)


def test_a_plan_outside_is_told_by_its_fields() -> None:
    request = request_of(SMALL)
    space = space_of(request)
    assert why_not_in(space, request.plan) == ""
    other = replace(request.plan, batch_per_device=request.plan.batch_per_device * 7)
    assert "batch_per_device" in why_not_in(space, other)
    assert differences(request.plan, other).startswith("batch_per_device ")
    assert not differences(other, other)


def test_an_answer_is_no_worse_than_the_gap_allows_and_is_compared_in_full() -> None:
    found = searched(SMALL, 60.0)
    request = request_of(SMALL)
    run_s = predict(compile_plan(request.workload, request.cluster, request.plan)).step_s
    assert found.run_step_s == run_s
    assert found.best is not None
    best_s = predict(compile_plan(request.workload, request.cluster, found.best)).step_s
    assert found.best_step_s == best_s
    assert found.claim == pytest.approx(1 - best_s / run_s)
    assert found.claim is not None
    assert found.gap is not None
    assert (1 - found.claim) * (1 - found.gap) <= 1 + 1e-9
    table = search_summary([found])
    assert table.splitlines()[-1].split()[:4] == ["all", "1", "1", "100.0%"]
    claimed = replace(found, best_step_s=0.5 * run_s, terms={"compute": 3.0, "bubble": -1.0})
    assert findings([claimed]) == [
        "claims > 10% by the part of the step that saves the most: compute 1",
        f"claims 50% over {SMALL.id}: compute -3 s, bubble +1 s; {found.differs}",
    ]
    assert sum((found.terms or {}).values()) == pytest.approx(run_s - best_s)


def test_what_does_not_fit_by_the_model_is_not_compared() -> None:
    found = searched(SMALL, 0.0)
    assert 0 < found.run_memory < 1
    ran = replace(found, best_step_s=1.0, run_memory=1.2)
    assert ran.claim is None
    assert replace(ran, run_memory=0.99).claim is not None


def test_answers_have_schedules_of_the_stack_and_that_of_the_run() -> None:
    request = request_of(SMALL)
    odd = replace(request.plan, schedule="gpipe")
    names = space_of(replace(request, plan=odd)).constraints.schedule
    assert names == (*request.stack.schedules, "gpipe")


def test_a_sample_has_as_many_runs_of_each_source() -> None:
    cases = [case for case in CASES.values() if case.group in ("torchtitan", "megascale", "zb")]
    chosen = sampled(cases, 12)
    assert [case.group for case in chosen].count("zb") == 4
    assert len({case.id for case in chosen}) == 12
    assert sampled(cases, 12) == chosen
    every = sampled(cases, 10**6)
    assert len({request_of(case).plan for case in every}) <= len(every) < len(cases)


def test_the_command_writes_a_row_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    group = ("--group", "torchtitan-a100")
    assert main(["validate", "--search", "--search-seconds", "0", *group, "-o", "out"]) == 0
    with (tmp_path / "out" / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = [case for case in CASES.values() if case.group == "torchtitan-a100"]
    assert [row["id"] for row in rows] == [case.id for case in wanted]
    assert {"in_space", "reason", "run_step_s", "best_step_s", "gap", "measured_step_s"} <= set(
        rows[0]
    )
    assert "torchtitan-a100" in capsys.readouterr().out
    assert main(["validate", "--search", "--search-seconds", "-1"]) == 2
    assert "--search-seconds: at least 0" in capsys.readouterr().err
    assert main(["validate", "--search", "--sample", "0"]) == 2
    assert "--sample: at least 1, got 0" in capsys.readouterr().err
