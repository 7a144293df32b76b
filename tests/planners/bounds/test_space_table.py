"""All plans of a space as arrays: the same bounds and verdicts as plan by plan."""

from random import Random

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import TORCH
from parplan.sim.workload import Workload


def space_of(model: str, cluster: str, batch: int, **workload: object) -> Space:
    given = Workload(
        model=model_preset(model),
        seq_len=2048,
        global_batch=batch,
        framework=NO_OVERHEAD,
        **workload,  # type: ignore[arg-type]
    )
    return make_space(given, cluster_preset(cluster), Constraints(context_parallel=(1, 2)))


SPACES = [
    space_of("llama3-8b", "8xh100", 64),
    # 96 layers on 64 stages, so that stages differ.
    space_of("gpt3-175b", "64xa100", 64),
    # Experts, on some of the layers.
    space_of("mixtral-8x7b", "64xh100", 64),
    # Gradients that a pipeline reduces once.
    space_of("llama2-7b", "8xa100-40gb", 24, optimizer="sgd", lora_rank=16, software=TORCH),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.workload.model.name)
def test_bounds_are_those_of_single_plans(space: Space) -> None:
    ask = Evaluator(space.workload, space.cluster, space=space)
    whole = ask.space_bounds()
    assert whole.shape == (len(space),)
    rng = Random(len(space))
    some = rng.sample(range(len(space)), 400)
    assert whole[some].tolist() == ask.bounds([space[i] for i in some])
    assert (whole < IMPOSSIBLE).sum() > 0


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.workload.model.name)
def test_verdicts_are_those_of_single_plans(space: Space) -> None:
    for ratio in (0.8, 0.4):
        ask = Evaluator(space.workload, space.cluster, space=space, memory_ratio=ratio)
        bounds = ask.space_bounds()
        rng = Random(int(10 * ratio))
        for number in rng.sample(range(len(space)), 60):
            plan = space[number]
            if plan.num_micro_batches * plan.total_stages > 1024:
                continue
            ask.rule_out_alike(plan)
            assert (bounds[number] < IMPOSSIBLE) == ask.fits(plan), plan


@pytest.mark.parametrize(
    ("model", "cluster", "batch"),
    [("llama3-8b", "8xa100-40gb", 8), ("mixtral-8x7b", "8xh100", 8), ("gpt3-175b", "64xa100", 64)],
)
def test_the_proven_optimum_is_that_of_brute_force(model: str, cluster: str, batch: int) -> None:
    workload = Workload(
        model=model_preset(model), seq_len=1024, global_batch=batch, framework=NO_OVERHEAD
    )
    few = Constraints(zero_stage=(0, 1), batch_per_device=(1, 2), virtual_stages=Range(max=2))
    space = make_space(workload, cluster_preset(cluster), few)
    found = run_planner("branch-and-bound", space)
    every = exhaustive(workload, space.cluster, list(space))
    assert found.proven
    assert (found.best is None) == (every.best is None)
    if found.best is not None and every.best is not None:
        assert found.best.step_s == every.best.step_s
    # Layouts that cannot hold a better plan are bounded as a whole.
    assert 0 < found.num_bounds <= len(space)


def test_a_bound_does_not_depend_on_what_it_is_asked_with() -> None:
    """A zb-v before a dualpipe-v of the same size is another schedule, with other bounds."""
    space = SPACES[0]
    one = [plan for plan in space if plan.schedule == "dualpipe-v"][:20]
    before = [plan for plan in space if plan.schedule == "zb-v"][:20]
    ask = (Evaluator(space.workload, space.cluster) for _ in range(2))
    assert next(ask).bounds(one) == next(ask).bounds([*before, *one])[len(before) :]


def test_only_a_space_has_bounds_as_a_whole() -> None:
    space = SPACES[0]
    with pytest.raises(ParplanError, match="made without a Space"):
        Evaluator(space.workload, space.cluster).space_bounds()
    assert not Evaluator(space.workload, space.cluster).proves(0.0)
    nothing = Evaluator(space.workload, space.cluster, space=space, memory_ratio=0.001)
    assert np.isinf(nothing.space_bounds()).all()
    assert nothing.proves(IMPOSSIBLE)


def test_costs_of_an_earlier_search_change_nothing_but_time() -> None:
    space = SPACES[0]
    shared = SharedCosts(space.workload, space.cluster)
    fresh = run_planner("branch-and-bound", space)
    for ratio in (0.5, 0.8):
        again = run_planner("branch-and-bound", space, shared=shared, memory_ratio=ratio)
    assert (again.best, again.num_asked) == (fresh.best, fresh.num_asked)
    with pytest.raises(ParplanError, match="shared costs: of llama3-8b on 8xh100, but"):
        run_planner("branch-and-bound", SPACES[1], shared=shared)
