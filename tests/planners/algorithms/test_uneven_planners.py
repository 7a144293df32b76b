"""Dynamic and integer programming over uneven stages, beside brute force over all of them."""

from dataclasses import replace
from itertools import product
from random import Random

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.algorithms.exact.dynamic_programming import best_cuts
from parplan.planners.bounds.stage_memory import StageSize, StageTables
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import Model, model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xa100-40gb")


def small(model: Model, layers: int) -> Model:
    return replace(model, num_layers=layers)


def space(model: Model, **constraints: object) -> Space:
    workload = Workload(model=model, seq_len=2048, global_batch=16, framework=NO_OVERHEAD)
    allowed = {"num_stages": (4,), "tensor_parallel": (1,), "batch_per_device": (1,), **constraints}
    return make_space(workload, CLUSTER, Constraints(**allowed))  # type: ignore[arg-type]


LLAMA = small(model_preset("llama3-8b"), 12)
CUTS = space(
    LLAMA, schedule=("1f1b",), zero_stage=(1,), recomputation=("none",), uneven_stages=True
)
BOTH = space(
    *(small(model_preset("llama3-8b"), 20),),
    schedule=("1f1b",),
    zero_stage=(1,),
    recomputation=("full",),
    uneven_stages=True,
    uneven_recomputation=True,
)


def splits(blocks: int, stages: int) -> list[tuple[int, ...]]:
    every = product(range(1, blocks), repeat=stages)
    return [split for split in every if sum(split) == blocks]


def ask(where: Space, ratio: float) -> Evaluator:
    return Evaluator(where.workload, where.cluster, memory_ratio=ratio, space=where)


@pytest.mark.parametrize("ratio", [0.8, 0.57])
def test_the_cuts_make_the_slowest_stage_fastest_within_memory(ratio: float) -> None:
    plan = CUTS[0]
    limit = ratio * CLUSTER.accelerator.memory_bytes
    tables = StageTables(CUTS.workload, CLUSTER, plan)

    def slowest(split: tuple[int, ...]) -> float:
        ends = [sum(split[: i + 1]) for i in range(len(split))]
        sizes = [
            StageSize(i, end - n, end) for i, (end, n) in enumerate(zip(ends, split, strict=True))
        ]
        return max(map(tables.seconds, sizes))

    evaluate = ask(CUTS, ratio)
    fitting = [s for s in splits(12, 4) if evaluate.fits(replace(plan, stage_layers=s))]
    found = best_cuts(tables, 12, limit)
    assert found in fitting
    assert slowest(found) == min(map(slowest, fitting))
    assert best_cuts(tables, 12, 0.3 * limit) is None


@pytest.mark.parametrize("planner", ["dynamic-programming", "integer-program"])
def test_uneven_stages_come_close_to_brute_force(planner: str) -> None:
    plan = CUTS[0]
    every = ask(CUTS, 0.8).many(replace(plan, stage_layers=s) for s in splits(12, 4))
    best_s = min(t.step_s for t in every if t.step_s is not None)
    found = run_planner(planner, CUTS).best
    even = run_planner("branch-and-bound", CUTS).best
    assert found is not None
    assert even is not None
    assert best_s <= (found.step_s or 0.0) <= 1.02 * best_s
    assert (found.step_s or 0.0) < (even.step_s or 0.0)


def best_by_brute_force(ratio: float) -> Trial | None:
    evaluate = ask(BOTH, ratio)
    plan = BOTH[0]
    steps = [plan.layers_of_stages(20), (6, 5, 5, 4), (5, 5, 6, 4), (4, 5, 5, 6), (7, 5, 4, 4)]
    plans = [
        replace(plan, stage_layers=split, recomputed_of_stages=again)
        for split in steps
        for again in product(*(range(0, n + 1, 2) for n in split))
    ]
    possible = [plan for plan in plans if evaluate.fits(plan)]
    timed = evaluate.many(possible)
    return min(timed, key=lambda t: t.step_s or 0.0, default=None)


@pytest.mark.parametrize("ratio", [0.43, 0.5])
def test_what_is_recomputed_is_what_memory_asks_for(ratio: float) -> None:
    found = run_planner("integer-program", BOTH, memory_ratio=ratio).best
    by_hand = best_by_brute_force(ratio)
    whole = run_planner("branch-and-bound", BOTH, memory_ratio=ratio).best
    assert found is not None
    assert by_hand is not None
    assert whole is not None
    assert found.plan in BOTH
    again = found.plan.recomputed_of_stages
    assert again is not None
    # The first stage keeps most micro-batches, so it recomputes most.
    assert again[0] == max(again)
    assert 0 < sum(again) < 20
    assert (found.step_s or 0.0) <= 1.01 * (by_hand.step_s or 0.0)
    assert (found.step_s or 0.0) < 0.95 * (whole.step_s or 0.0)


def test_no_uneven_plan_is_below_the_bound_of_its_row() -> None:
    where = space(
        *(LLAMA,),
        num_stages=(1, 2, 4),
        tensor_parallel=(1, 2),
        schedule=("1f1b", "interleaved-1f1b", "zb-h1"),
        uneven_stages=True,
        uneven_recomputation=True,
    )
    evaluate = Evaluator(where.workload, where.cluster, memory_ratio=1e3, space=where)
    lower_bounds = evaluate.uneven_lower_bounds()
    rng = Random(3)
    for row in rng.sample(range(where.num_rows), 60):
        plan = where.row(row)
        stages = plan.total_stages
        cuts = sorted(rng.sample(range(1, 12), stages - 1))
        layers = tuple(b - a for a, b in zip([0, *cuts], [*cuts, 12], strict=True))
        again = tuple(rng.randint(0, n) for n in layers)
        uneven = replace(
            plan,
            stage_layers=layers,
            recomputed_of_stages=None if plan.recomputation == "none" else again,
        )
        assert uneven in where
        assert lower_bounds[row] <= (evaluate(uneven).step_s or 0.0)


def test_a_space_that_is_not_uneven_has_no_uneven_plans() -> None:
    even = space(LLAMA, schedule=("1f1b",))
    assert replace(even[0], stage_layers=(4, 3, 3, 2)) not in even
    for planner in ("dynamic-programming", "integer-program"):
        report = run_planner(planner, even)
        assert report.proven
        assert report.best == run_planner("branch-and-bound", even).best
        uneven = run_planner(planner, CUTS, with_gap=True)
        assert not uneven.proven
        assert uneven.gap is not None
        assert 0 < uneven.gap < 0.5


def test_a_budget_ends_them() -> None:
    for planner in ("dynamic-programming", "integer-program"):
        report = run_planner(planner, BOTH, budget=Budget(evaluations=1))
        assert report.num_asked <= 1
        nothing = run_planner(planner, BOTH, memory_ratio=0.01)
        assert nothing.best is None
        assert nothing.trials
