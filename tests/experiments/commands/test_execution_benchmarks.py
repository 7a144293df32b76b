"""Benchmarks of executed plans run what they say they run, and count as they say. No test looks at
a time."""

import csv
import json
from pathlib import Path

import pytest

from parplan.backend.executable import why_not_executable, why_not_split, why_not_trained
from parplan.experiments.accuracy.comparison_tables import short_name
from parplan.experiments.benchmarks import execution, scripts, unseen_models
from parplan.experiments.benchmarks.scripts import MeasuredScript
from parplan.sim.plan import Plan
from tests.commands import parplan


def test_sixty_different_plans_of_every_kind_can_be_executed() -> None:
    plans = execution.plans()
    assert len(set(plans)) == len(plans) == 60
    assert (
        len({short_name(plan) for plan in plans}) == 58
    )  # uneven stages and recomputed layers have no name
    assert short_name(Plan(context_parallel=2, batch_per_device=16)) == "cp2 m1"
    assert not any(why_not_executable(plan, execution.PROCESSES) for plan in plans)
    assert {plan.zero_stage for plan in plans} == {0, 1, 2, 3}
    assert {plan.schedule for plan in plans if plan.num_stages > 1} == {
        name for name, _ in execution.PIPELINES
    }
    parts = execution.sittings(plans)
    assert [plan for part in parts for plan in part] == plans


def test_ten_unseen_models_can_be_executed() -> None:
    models = unseen_models.models()
    assert len(models) == len({workload.model for workload, _ in models.values()}) == 10
    seen = execution.workload().model
    for workload, plans in models.values():
        assert workload.model != seen
        assert not why_not_trained(workload)
        for plan in plans:
            assert not why_not_executable(plan, 2)
            assert not why_not_split(workload.model, plan)
            rows = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
            assert rows == workload.global_batch


def test_regret_overhead_and_noise_of_a_script() -> None:
    replicas, pipeline = scripts.ALTERNATIVES[0], scripts.ALTERNATIVES[1]
    pick = Plan(num_stages=2, num_micro_batches=16, batch_per_device=1)
    steps_s = {pick: [1.2, 1.1], replicas: [1.3, 1.26], pipeline: [1.5, 1.0]}
    script = MeasuredScript("x", pick, 1.0, steps_s, by_hand_s=[1.3, 1.2])
    assert script.regret == pytest.approx(0.1)
    assert script.overhead == pytest.approx(0.05)
    assert script.noise == pytest.approx(0.25)
    assert "regret 10.0%" in scripts.line(script)
    assert scripts.summary([script, script]).startswith("2 scripts: regret 10.0% (mean), 10.0% (wo")


def test_scripts_that_are_measured_are_those_that_there_are() -> None:
    pytest.importorskip("torch")
    from parplan.backend.examples import user_script

    assert list(user_script.KINDS) == list(scripts.KINDS)
    for make, batch_of in user_script.KINDS.values():
        loss = make()(*(part[:2] for part in batch_of()))
        assert loss.dim() == 0
        assert loss.requires_grad


@pytest.mark.long
@pytest.mark.timeout(500)
def test_one_script_and_two_unseen_models_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = ("benchmark", "--small", "--repeats", "1")
    done = parplan(*words, "--unseen", "-o", "unseen", cwd=tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 models, 8 plans: mean error ")
    assert len(json.loads((tmp_path / "unseen" / "unseen.json").read_text())) == 2
    done = parplan(*words, "--scripts", "perceptron", "-o", "out", cwd=tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("1 scripts: regret ")
    with (tmp_path / "out" / "scripts.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= len(scripts.ALTERNATIVES)


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = parplan("benchmark", "--scripts", "vison", cwd=tmp_path)
    assert done.returncode == 2
    assert "vision" in done.stderr
