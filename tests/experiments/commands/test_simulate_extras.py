"""`parplan simulate`: computations slowed by messages, steps in a row."""

import json
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.experiments.commands.predict.simulate_extras import further_step_s, steps_of
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table
from parplan.sim.prediction.predict import CompiledPlan, compile_plan, predict
from parplan.sim.schedules import make_program
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=32, framework=NO_OVERHEAD
)
PLAN = Plan(
    num_stages=4, num_micro_batches=8, data_parallel=4, recomputation="full", schedule="zb-h1"
)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompiledPlan:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(json.dumps(plan_table(PLAN, WORKLOAD, "16xh100")))
    return compile_plan(WORKLOAD, cluster_preset("16xh100"), PLAN)


def test_messages_slow_computations(
    compiled: CompiledPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "plan.json", "--message-slowdown", "1.5"]) == 0
    slowed = simulate(compiled.schedule, compiled.costs, compute_slowdown_during_messages=1.5)
    longer = slowed.step_s - predict(compiled).step_s
    assert longer > 0
    assert (
        f"with computations 1.5 times as long during messages: step {slowed.step_s:.4g} s, "
        f"{longer:.4g} s"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("post_validation", [False, True])
def test_steps_in_a_row(
    compiled: CompiledPlan, capsys: pytest.CaptureFixture[str], post_validation: bool
) -> None:
    flags = ["--post-validation"] if post_validation else []
    assert main(["simulate", "plan.json", "--steps", "3", *flags]) == 0
    steps = steps_of(compiled, cluster_preset("16xh100"), 3, post_validation=post_validation)
    how = " with post-validation" if post_validation else ""
    first, _, last = steps.ends_s
    assert (
        f"3 steps in a row{how}: first {first:.4g} s, then {(last - first) / 2:.4g} s each"
    ) in capsys.readouterr().out


def test_the_norm_makes_steps_wait(compiled: CompiledPlan) -> None:
    """The time of a step holds the norm of the gradients, which the plan's own costs leave out."""
    cluster = cluster_preset("16xh100")
    waiting = steps_of(compiled, cluster, 3)
    passing = steps_of(compiled, cluster, 3, post_validation=True)
    assert waiting.ends_s[0] > predict(compiled).step_s
    assert further_step_s(passing) < further_step_s(waiting) <= waiting.ends_s[0]


def test_one_step_has_no_further_one(
    compiled: CompiledPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "plan.json", "--steps", "1"]) == 0
    first_s = steps_of(compiled, cluster_preset("16xh100"), 1).ends_s[0]
    assert f"1 step in a row: first {first_s:.4g} s\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("schedule", "stages_per_rank", "waiting_s", "passing_s"),
    [("1f1b", 1, 93, 93), ("zb-h1", 1, 79, 79), ("zb-h2", 1, 79, 72), ("zb-v", 2, 75.5, 72)],
)
def test_steps_of_unit_costs(
    schedule: str, stages_per_rank: int, waiting_s: float, passing_s: float
) -> None:
    """8 ranks, 24 micro-batches; forward, input and weight gradient 1 s each on a rank."""
    part_s, norm_s = 1 / stages_per_rank, 1e-9
    cost = StageCosts(
        forward_s=part_s, input_gradient_s=part_s, weight_gradient_s=part_s, norm_sync_s=norm_s
    )
    program = make_program(schedule, 8, 24, stages_per_rank)
    for post_validation, expected_s in ((False, waiting_s), (True, passing_s)):
        steps = simulate_steps(
            program, [cost] * (8 * stages_per_rank), 4, post_validation=post_validation
        )
        assert further_step_s(steps) == pytest.approx(expected_s, abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--message-slowdown", "0.5"], "--message-slowdown: must be at least 1"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--post-validation"], "--post-validation: needs --steps of at least 2"),
        (["--steps", "1", "--post-validation"], "needs --steps of at least 2"),
    ],
)
def test_values_out_of_range(
    compiled: CompiledPlan,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert main(["simulate", "plan.json", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()
