"""Searches for plans that stock PyTorch can run, and for nothing else."""

from pathlib import Path

import pytest

from parplan.backend.executable import executable_only
from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.commands import parplan

CLUSTER = cluster_preset("8xa100-40gb")
WORKLOAD = Workload(
    model=model_preset("gemma-2b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
)
ALLOWED = Constraints(
    context_parallel=Range(max=2),
    num_stages=Range(max=4),
    schedule=("1f1b", "zb-h1"),
    zero_stage=(0, 1, 3),
)


def test_planners_find_the_best_of_what_can_be_executed() -> None:
    why_not = executable_only(WORKLOAD, CLUSTER.num_accelerators)
    space = make_space(WORKLOAD, CLUSTER, ALLOWED, why_not)
    refused = [plan for plan in space if why_not(plan)]
    assert refused
    assert len(refused) < len(space)
    every = run_planner("exhaustive", space)
    assert every.best is not None
    assert not why_not(every.best.plan)
    for trial in every.trials:
        if reason := why_not(trial.plan):
            assert trial.reason == reason
            assert not trial.fits
    proven = run_planner("branch-and-bound", space)
    assert proven.best is not None
    assert proven.proven
    assert proven.best.step_s == every.best.step_s
    # Without the predicate another plan is faster, or as fast.
    other = run_planner("exhaustive", make_space(WORKLOAD, CLUSTER, ALLOWED)).best
    assert other is not None
    assert other.step_s is not None
    assert other.step_s <= (every.best.step_s or 0.0)


def test_a_workload_that_no_plan_can_execute_is_named() -> None:
    workload = Workload(
        model=model_preset("mixtral-8x7b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
    )
    with pytest.raises(ParplanError, match="mixtral-8x7b: experts cannot be executed yet"):
        executable_only(workload, 8)


def test_the_command_says_what_it_leaves_out(tmp_path: Path) -> None:
    words = ("llama3.2-1b", "--cluster", "8xa100-40gb", "--seq-len", "512", "--global-batch", "8")
    done = parplan("plan", *words, "--space", "full", "--executable", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert "candidates cannot be executed, most often because: " in first
    left_out, _, rest = first.removeprefix("parplan: ").partition(" of ")
    count = int(rest.split()[0]) - int(left_out)
    assert f"exhaustive: all {count} plans tried" in done.stdout
