"""Ranks of large jobs, played alone, hold what the simulator says."""

import dataclasses
import json
from pathlib import Path

import pytest

from parplan.backend.execution.dry_run import first_ranks, virtual_ranks
from parplan.errors import ParplanError
from parplan.experiments.commands.run.dry_run import agrees, predicted
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.plan_file import plan_table
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.commands import parplan

MODEL = dataclasses.replace(model_preset("gpt3-1.3b"), num_layers=16, vocab_size=51200)
PIPELINE = {"num_stages": 8, "num_micro_batches": 16}

PLANS = {
    "256 ranks: pipeline and replicas": Plan(**PIPELINE, data_parallel=32),
    "128 ranks: two chunks each": Plan(
        **PIPELINE, data_parallel=16, schedule="interleaved-1f1b", virtual_stages=2
    ),
    "128 ranks: parts of sequences": Plan(**PIPELINE, data_parallel=8, context_parallel=2),
}


def workload(plan: Plan) -> Workload:
    batch = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    # Every tensor-parallel rank has the whole table of positions, which the simulator splits.
    positions = 0 if plan.tensor_parallel > 1 else MODEL.learned_positions
    model = dataclasses.replace(MODEL, learned_positions=positions)
    return Workload(model=model, seq_len=512, global_batch=batch, framework=NO_OVERHEAD)


@pytest.mark.parametrize("name", PLANS)
def test_ranks_of_large_jobs_hold_what_is_predicted(name: str) -> None:
    plan = PLANS[name]
    expected, ranks = predicted(workload(plan), plan), first_ranks(plan)
    for found in virtual_ranks(workload(plan), plan, [ranks[0], ranks[-1]]):
        assert agrees(found, expected[found.pipeline_rank], 0.15)


def test_split_ranks_hold_the_parameters_that_are_predicted() -> None:
    # DTensor keeps more activations than the simulator says, see docs/models.md.
    plan = Plan(**PIPELINE, data_parallel=8, tensor_parallel=8, **zero_fields(2))
    expected = predicted(workload(plan), plan)
    assert plan.num_devices == 512
    for found in virtual_ranks(workload(plan), plan, [511]):
        assert found.parameters == pytest.approx(expected[-1].parameters, rel=0.01)


def test_a_wrong_prediction_is_noticed() -> None:
    plan = PLANS["256 ranks: pipeline and replicas"]
    fewer = dataclasses.replace(MODEL, num_layers=15)
    wrong = predicted(dataclasses.replace(workload(plan), model=fewer), plan)
    (found,) = virtual_ranks(workload(plan), plan, [plan.num_devices - 1])
    assert not agrees(found, wrong[-1], 0.15)


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    plan = PLANS["256 ranks: pipeline and replicas"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_table(plan, workload(plan), "256 ranks")))
    done = parplan("dry-run", path, "--stages", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "256 ranks; simulated: the first rank of each of 1 stages" in done.stdout
    assert done.stdout.splitlines()[-1].split()[:2] == ["96", "3"]
    done = parplan("dry-run", path, "--stages", "3", "--tolerance", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("differs")
    done = parplan("dry-run", path, "--stages", "9", cwd=tmp_path)
    assert done.returncode == 2
    assert "--stages: 9; the plan has 0 to 7" in done.stderr


def test_plans_that_cannot_run_are_refused() -> None:
    plan = Plan(num_stages=2, data_parallel=4, offload_optimizer=True)
    with pytest.raises(ParplanError, match="offload_optimizer cannot be executed yet"):
        next(virtual_ranks(workload(plan), plan, [0]))
