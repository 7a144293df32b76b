"""What `parplan plan` searches and says where no space is given."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

import parplan
from parplan.experiments.cli import main
from parplan.experiments.figures.cost_landscape import cost_landscape
from parplan.experiments.planning import search as search_module
from parplan.planners.explain.plan_words import plan_parts
from parplan.planners.search.budget import Budget
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.everything import everything, with_options
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Space
from parplan.sim.plan_file import read_plan
from tests.planners.spaces.test_everything import DENSE

JOB = parplan.Workload("llama3-8b", seq_len=2048, global_batch=16)
ASKED = ("plan", "llama3-8b", "--cluster", "8xh100", "--seq-len", "2048", "--global-batch", "16")


def small() -> Space:
    job = parplan.Workload(DENSE, seq_len=1024, global_batch=16)
    allowed = Constraints(
        schedule=("1f1b",),
        stage_ends=(0, 2),
        recomputed_layers=Range(min=1),
        tensor_parallel=(1, 2),
    )
    return make_space(job, parplan.cluster("16xh100"), allowed)


def test_alternatives_are_other_kinds_of_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of near plans, that differ in the number of recomputed layers, one is named."""
    monkeypatch.chdir(tmp_path)
    asked = [word.replace("8xh100", "8xa100-40gb") for word in ASKED]
    assert main([*asked, "--json", "-o", "out"]) == 0
    found = json.loads(capfd.readouterr().out)
    kinds = []
    for plan in (found["plan"], *(a["plan"] for a in found["alternatives"] if a["fits"])):
        parts = plan_parts(parplan.Plan(**plan)) | {"recomputation": plan["recomputation"]}
        kinds.append(tuple(parts.values()))
    assert len(kinds) >= 3
    assert len(set(kinds)) == len(kinds)


def test_everything_is_searched_and_what_is_said_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*ASKED, "-o", "out"]) == 0
    out, _ = capfd.readouterr()
    cluster = parplan.cluster("8xh100")
    size = len(make_space(JOB, cluster, everything(JOB, cluster)))
    assert f"of {size:,} plans; proven: no plan of the space is better" in out
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    fitting = [float(row["step_s"]) for row in rows if row["step_s"]]
    close = sum(s <= 1.03 * min(fitting) for s in fitting) - 1
    assert re.search(rf"(at least )?{close} other plans? within 3%", out)


def test_aps_log_says_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*ASKED, "--num-stages", "1", "--ap-log", "-o", "out"]) == 0
    assert re.search(r"The number of possible candidates is at least \d+\.", capfd.readouterr().out)


def test_options_narrow_it() -> None:
    cluster = parplan.cluster("8xh100")
    allowed = with_options(
        everything(JOB, cluster),
        Options(num_stages=2, activation_recomputation=False, distribute_parameter=True),
    )
    space = make_space(JOB, cluster, allowed)
    assert {plan.num_stages for plan in map(space.row, range(space.num_rows))} == {1, 2}
    assert {plan.recomputation for plan in space} == {"none"}
    assert all(plan.zero_stage for plan in space if plan.replicas > 1)


def test_python_searches_the_same() -> None:
    found = parplan.plan(JOB, "8xh100", num_stages=2)
    assert len(found.trials) > 1
    assert found.search.num_candidates > 10_000
    assert found.best.step_s is not None


def test_a_job_that_fits_only_by_offloading_is_offloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("plan", "llama3-8b", "--cluster", "1xa100", "--seq-len", "1024", "--global-batch", "2")
    assert main([*asked, "-o", "out"]) == 0
    assert "nothing fits without offloading to the host" in capfd.readouterr().err
    plan = read_plan(tmp_path / "out" / "plan.json")[0]
    assert plan.offload_optimizer


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.2])
def test_a_gap_ends_a_search_early_and_is_kept(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "parplan.planners.algorithms.exact.branch_and_bound"
    monkeypatch.setattr(f"{module}.BEFORE_GAP", 0)
    space = small()
    every = run_planner("exhaustive", space)
    found = run_planner("branch-and-bound", space, budget=Budget(gap=gap), with_gap=True)
    assert every.best is not None
    assert found.best is not None
    best, own = every.best.step_s or 0.0, found.best.step_s or 0.0
    assert found.gap is not None
    assert found.gap <= gap + 1e-8
    assert own * (1 - found.gap) <= best * (1 + 1e-12)


def test_plans_near_the_best_are_all_found_up_to_where_the_report_says() -> None:
    space = small()
    every = run_planner("exhaustive", space)
    found = run_planner("branch-and-bound", space, budget=Budget(near=0.03), with_gap=True)
    known = {trial.plan for trial in found.trials}
    steps = {t.plan: t.step_s for t in every.trials if t.step_s is not None}
    assert found.untried_s > 0
    assert {plan for plan, s in steps.items() if s < found.untried_s * (1 - 1e-9)} <= known
    assert len(known) > 1


def test_bounds_of_cells_are_lower_bounds() -> None:
    space = small()
    every = run_planner("exhaustive", space)
    found = run_planner("branch-and-bound", space)
    assert set(found.cell_lower_bounds) == {(p.num_stages, p.batch_per_device) for p in space}
    for trial in every.trials:
        lower_bound = found.cell_lower_bounds[trial.plan.num_stages, trial.plan.batch_per_device]
        assert trial.step_s is None or lower_bound <= trial.step_s
    axes = cost_landscape(found.trials, "title", found.cell_lower_bounds).axes[0]
    drawn = [text.get_text() for text in axes.texts]
    assert any(text.startswith("\u2265") for text in drawn)
    assert "a lower bound" in axes.get_title()


def test_precision_and_optimizer_are_part_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    full = (*ASKED, "--space", "full", "--num-stages", "1", "-o")
    found = {}
    for name in ("bf16", "fp8", "nvfp4"):
        asked = ("--cluster", "8xb200") if name == "nvfp4" else ()
        assert main([*full, name, "--precision", name, *asked]) == 0
        found[name] = json.loads((tmp_path / name / "plan.json").read_text())
    assert found["nvfp4"]["workload"]["precision"] == "fp4"
    assert found["fp8"]["predicted"]["step_s"] < found["bf16"]["predicted"]["step_s"]
    job = parplan.Workload("llama3-8b", seq_len=2048, global_batch=16, precision="fp8")
    same = parplan.plan(job, "8xh100", space="full", num_stages=1)
    assert same.best.step_s == found["fp8"]["predicted"]["step_s"]
    assert main([*full, "sgd", "--optimizer", "sgd"]) == 0
    capfd.readouterr()
    assert main([*full, "no", "--precision", "fp8", "--no-mixed-precision"]) == 2
    assert "--precision fp8: contradicts --no-mixed-precision" in capfd.readouterr().err


def test_a_large_space_is_searched_from_a_good_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, begun = [], []
    original = search_module.run_planner

    def watched(planner: str, space: Space, **given: Any) -> Any:
        begun.append(given["budget"].first)
        return original(planner, space, **given)

    monkeypatch.setattr(search_module, "run_planner", watched)
    for large in (10**12, 1):
        monkeypatch.setattr(search_module, "LARGE_SPACE", large)
        job = parplan.Workload("gpt-tiny", seq_len=64, global_batch=8)
        result = parplan.plan(job, "4xh100", space="everything")
        found.append(result.best.step_s)
    assert found[0] == found[1]
    # The whole space alone; a part of it, and the whole from the best plan of the part.
    assert [len(first) for first in begun] == [0, 0, 1]


def test_a_search_that_ended_early_does_not_say_that_nothing_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    huge = ("plan", "gpt3-175b", "--cluster", "8xa100-40gb", "--seq-len", "2048")
    assert main([*huge, "--global-batch", "8", "--planner", "random", "--budget", "2"]) == 1
    assert "no candidate that fits was found (budget used up)" in capfd.readouterr().err
