"""The evaluator and the runner: what they count, keep, stop and report."""

import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.run import (
    BUILT_IN,
    GROUP,
    find_planner,
    planner_names,
    register_planner,
    run_planner,
)
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD, framework
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xa100-40gb")
WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
SPACE = make_space(WORKLOAD, CLUSTER, Constraints(zero_stage=(1,), num_stages=Range(max=4)))
PLANS = list(SPACE)
REMOTE = Plan(num_stages=8, num_micro_batches=16)


def evaluator(**arguments: object) -> Evaluator:
    return Evaluator(WORKLOAD, CLUSTER, space=SPACE, **arguments)  # type: ignore[arg-type]


def test_the_trials_are_those_of_the_exhaustive_search() -> None:
    some = PLANS[::3]
    assert tuple(evaluator().many(some)) == exhaustive(WORKLOAD, CLUSTER, some).trials


@pytest.mark.parametrize(
    ("model", "software"),
    [
        ("mixtral-8x7b", Software()),
        ("mixtral-8x7b", Software(overlap_expert_exchange=True, expert_dispatch="nodes")),
        ("llama2-7b", Software(step_graph=True)),
    ],
)
def test_what_is_shared_between_plans_changes_nothing(model: str, software: Software) -> None:
    workload = Workload(
        model=model_preset(model),
        seq_len=1024,
        global_batch=32,
        framework=framework("fused"),
        software=software,
    )
    cluster = cluster_preset("8xh100")
    space = make_space(workload, cluster, Constraints(context_parallel=(1, 2)))
    rng = Random(3)
    plans = [space.sample(rng) for _ in range(150)]
    ask = Evaluator(workload, cluster, memory_ratio=1.0)
    for plan, trial in zip(plans, ask.many(plans), strict=True):
        compiled = compile_plan(workload, cluster, plan)
        assert trial.memory_bytes == tuple(rank.total_bytes for rank in compiled.memory)
        if trial.fits:
            assert trial.step_s == predict(compiled).step_s


def test_every_ask_counts() -> None:
    ask = evaluator()
    first = ask(PLANS[0])
    assert ask.many([PLANS[0], PLANS[1], PLANS[1]]) == [first, ask(PLANS[1]), ask(PLANS[1])]
    assert ask.num_asked == 6
    assert [trial.plan for trial in ask.trials] == PLANS[:2]


def test_a_plan_from_elsewhere_is_not_possible() -> None:
    trial = evaluator()(REMOTE)
    assert trial.reason == "not a plan of the space that is searched"
    assert evaluator().bounds([REMOTE]) == [float("inf")]
    with pytest.raises(ParplanError, match="expected a Plan, got 'plan'"):
        evaluator()("plan")  # type: ignore[arg-type]


def test_a_budget_of_evaluations_is_kept_to_the_last_one() -> None:
    def greedy(space: Space, evaluate: Evaluator, rng: Random) -> None:
        evaluate.many(PLANS[:3])
        evaluate.many(PLANS[:100])

    report = run_planner(greedy, SPACE, budget=Budget(evaluations=50))
    assert (report.num_asked, len(report.trials)) == (50, 47)
    assert [trial.plan for trial in report.trials] == PLANS[:47]
    assert (report.stopped, report.proven) == ("budget used up", False)


def test_a_budget_of_seconds_is_kept() -> None:
    ticks: Iterator[int] = count()
    report = run_planner(
        "random", SPACE, budget=Budget(seconds=400), clock=lambda: float(next(ticks))
    )
    assert report.stopped == "budget used up"
    assert 0 < report.num_asked < len(SPACE)


def test_an_interrupt_keeps_what_was_found() -> None:
    def interrupted(space: Space, evaluate: Evaluator, rng: Random) -> None:
        evaluate.many(PLANS[:5])
        raise KeyboardInterrupt

    report = run_planner(interrupted, SPACE)
    assert (report.stopped, len(report.trials)) == ("interrupted", 5)


def quiet(space: Space, evaluate: Evaluator, rng: Random) -> None:
    pass


def broken(space: Space, evaluate: Evaluator, rng: Random) -> None:
    evaluate(space[0])
    raise ValueError("no idea")


@pytest.mark.parametrize(
    ("planner", "message", "asked"),
    [
        (quiet, "failed: it asked about no plan", 0),
        (broken, "failed: ValueError: no idea (", 1),
    ],
)
def test_a_planner_that_fails_is_reported(
    planner: Callable[..., None], message: str, asked: int
) -> None:
    report = run_planner(planner, SPACE)
    assert report.stopped.startswith(message)
    assert report.failed
    assert len(report.trials) == asked


def test_only_a_proof_is_called_one() -> None:
    whole = run_planner("exhaustive", SPACE)
    bounded = run_planner("branch-and-bound", SPACE)
    assert whole.proven
    assert bounded.proven
    assert whole.best is not None
    assert bounded.best is not None
    assert bounded.best.step_s == whole.best.step_s
    assert bounded.num_asked < whole.num_asked / 10
    most = run_planner("exhaustive", SPACE, budget=Budget(evaluations=len(SPACE) - 1))
    assert not most.proven


def test_when_nothing_fits_that_is_proven_too() -> None:
    for name in ("exhaustive", "branch-and-bound"):
        report = run_planner(name, SPACE, memory_ratio=0.01)
        assert report.best is None
        assert report.proven
        assert report.closest is not None


def test_built_in_planners_are_listed_once() -> None:
    table = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert GROUP not in table["project"].get("entry-points", {})
    assert all(find_planner(name) for name in BUILT_IN)


def test_a_planner_whose_library_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "parplan.planners.algorithms.heuristic.tpe", raising=False)
    with pytest.raises(ParplanError, match=r"planner tpe: .*pip install 'parplan\[optuna\]'"):
        find_planner("tpe")


def test_a_planner_can_be_registered_once() -> None:
    @register_planner("first-plan")
    def first_plan(space: Space, evaluate: Evaluator, rng: Random) -> None:
        evaluate(space[0])

    assert find_planner("first-plan") is first_plan
    assert "first-plan" in planner_names()
    assert register_planner("first-plan", first_plan) is first_plan
    for name, planner, said in (
        ("first-plan", print, "there is one of this name already"),
        ("annealing", print, "there is one of this name already"),
        ("a:b", print, "a name without a colon"),
        ("another", 5, "expected a function, got 5"),
    ):
        with pytest.raises(ParplanError, match=said):
            register_planner(name, planner)


def test_planners_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_planner("tests.planners.search.test_evaluator:quiet").__name__ == "quiet"
    info = tmp_path / "lucky-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lucky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[parplan.planners]\nlucky = lucky_planner:plan\n")
    (tmp_path / "lucky_planner.py").write_text(
        "def plan(space, evaluate, rng):\n    evaluate(space[0])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "lucky" in planner_names()
    assert len(run_planner("lucky", SPACE).trials) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("annealling", "unknown planner 'annealling'; did you mean annealing"),
        ("nowhere.at.all:plan", "planner nowhere.at.all:plan: cannot be imported: No module"),
        (
            "parplan.planners.search.run:plan",
            "cannot be imported: module .* has no attribute 'plan'",
        ),
        ("parplan.planners.search.run:GROUP", "expected a function, got 'parplan.planners'"),
    ],
)
def test_planners_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        run_planner(name, SPACE)


def test_budgets_that_allow_nothing() -> None:
    with pytest.raises(ParplanError, match="at least 1 evaluation, got 0"):
        Budget(evaluations=0)
    with pytest.raises(ParplanError, match="more than 0 seconds, got -1"):
        Budget(seconds=-1)
