"""What stands on a search does not take one that was interrupted for one that found nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from parplan.errors import ParplanError, RunFailedError
from parplan.experiments.landscape import cells
from parplan.experiments.scaling import study
from parplan.experiments.scaling.machines import ScaledMachine
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.budget import Budget
from parplan.planners.search.report import Report
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.workload import Workload

WORKLOAD = Workload(model=model_preset("gpt-tiny"), seq_len=64, global_batch=8)
FEW = Constraints(num_stages=(1, 2), tensor_parallel=(1,), batch_per_device=(1,))
SPACE = make_space(WORKLOAD, cluster_preset("4xh100"), FEW)


def interrupted(*given: Any, **named: Any) -> Any:
    """A search in which Ctrl-C was pressed before the first plan."""

    def planner(*_: object) -> None:
        raise KeyboardInterrupt

    return run_planner(planner, SPACE)


def test_a_report_is_whole_or_raises() -> None:
    report = run_planner("branch-and-bound", SPACE)
    assert report.whole() is report
    used_up = dataclasses.replace(report, stopped="budget used up")
    assert used_up.whole() is used_up
    with pytest.raises(KeyboardInterrupt):
        interrupted().whole()
    with pytest.raises(RunFailedError, match="the search failed: ValueError: no"):
        dataclasses.replace(report, stopped="failed: ValueError: no").whole()
    plain = Report(trials=(), compile_s=0.0, cost_s=0.0)
    assert plain.whole() is plain


def test_an_interrupt_of_a_point_or_a_cell_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (study, cells):
        monkeypatch.setattr(module, "run_planner", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.point(WORKLOAD, ScaledMachine(node="dgx-h100"), 4, FEW, ask_why=False)
    request = cells.LandscapeRequest(
        workload=WORKLOAD, cluster=cluster_preset("4xh100"), axes=(), base=FEW
    )
    with pytest.raises(KeyboardInterrupt):
        cells.Worker(request).cell({})


def test_what_watches_a_search_and_fails_ends_it() -> None:
    def watch(evaluator: object) -> None:
        raise ParplanError("search.jsonl: cannot be written: No space left on device")

    def stubborn(space: Any, evaluate: Callable[..., Any], rng: object) -> None:
        for plan in space:
            try:
                evaluate(plan)
            except Exception:
                continue

    for planner in ("random", "branch-and-bound", stubborn):
        with pytest.raises(ParplanError, match="cannot be written"):
            run_planner(planner, SPACE, budget=Budget(evaluations=3), watch=watch)
