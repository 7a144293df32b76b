"""Spaces whose plans have variants: what is in them, and bounds that hold for all variants."""

from itertools import product
from random import Random

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.bounds.box_bounds import box_bounds_s, box_fits, divided
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import LEAST_MEMORY, STEP_TIME, Goal
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space, point_of
from parplan.planners.spaces.variants import Box
from parplan.planners.spaces.wide_space import WideSpace
from parplan.sim.models.model import model_preset
from parplan.sim.plan import check_plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WIDE = {
    "recomputed_layers": Range(),
    "shard_group": Range(),
    "gradient_dtype": ("as computed", "fp32"),
    "overlap_gradient_reduction": (True, False),
    "overlap_tensor_parallel": (False, True),
    "offload_optimizer": (False, True),
    "offload_activations": (False, True),
}
FEW = {
    "batch_per_device": (1, 2),
    "virtual_stages": Range(max=2),
    "schedule": ("1f1b", "interleaved-1f1b", "zb-h1", "zb-v"),
}


def wide(model: str, cluster: str, batch: int, **constraints: object) -> WideSpace:
    workload = Workload(
        model=model_preset(model), seq_len=2048, global_batch=batch, framework=NO_OVERHEAD
    )
    allowed = Constraints(**{**WIDE, **FEW, **constraints})  # type: ignore[arg-type]
    space = make_space(workload, cluster_preset(cluster), allowed)
    assert isinstance(space, WideSpace)
    return space


LLAMA = wide("llama3-8b", "8xa100-40gb", 16)
EXPERTS = wide("mixtral-8x7b", "16xh100", 16, context_parallel=(1, 2))
SMALL = wide(
    *("llama2-7b", "4xa100-40gb", 4),
    tensor_parallel=(1, 2),
    num_stages=(1, 2),
    zero_stage=(0, 1),
    recomputed_layers=(1, 4, 8),
    overlap_tensor_parallel=(True,),
    overlap_gradient_reduction=(True,),
    schedule=("1f1b",),
)


def test_every_plan_is_there_once() -> None:
    everything = list(SMALL)
    assert len(everything) == len(SMALL) == len(set(everything)) > 1000
    assert [SMALL[i] for i in range(0, len(SMALL), 13)] == everything[::13]
    for plan in everything[::5]:
        check_plan(plan, SMALL.workload, 4)
        assert plan in SMALL
        assert SMALL.nearest(point_of(plan)) == plan


@pytest.mark.parametrize("space", [LLAMA, EXPERTS, SMALL], ids=lambda s: s.workload.model.name)
def test_plans_drawn_by_chance_and_their_neighbours_are_in_the_space(space: Space) -> None:
    rng = Random(2)
    for _ in range(20):
        plan = space.sample(rng)
        assert plan in space
        near = space.neighbours(plan)
        assert len(near) == len(set(near)) > 3
        assert all(other in space for other in near)
        assert plan not in near


def single(plan: object) -> Box:
    return Box(*((getattr(plan, name),) for name in Box._fields))


@pytest.mark.parametrize("space", [LLAMA, EXPERTS], ids=lambda s: s.workload.model.name)
def test_bounds_hold_for_every_variant_and_are_tight_for_one(space: WideSpace) -> None:
    shared = SharedCosts(space.workload, space.cluster)
    parts = shared.parts_of(space.constraints)
    assert isinstance(parts, RelaxedParts)
    ask = Evaluator(space.workload, space.cluster, memory_ratio=1e3, shared=shared)
    whole = Evaluator(
        space.workload, space.cluster, memory_ratio=1e3, shared=shared, space=space
    ).space_bounds()
    rng = Random(7)
    for row in rng.sample(range(space.num_rows), 40):
        plain = space.row(row)
        variants = list(space.variants(row))
        for plan in rng.sample(variants, min(4, len(variants))):
            box = space.box(row)
            step_s = ask(plan).step_s or 0.0
            exact = ask.bounds([plan])[0]
            assert whole[row] <= exact <= step_s
            least = 0.0
            while parts_of_box := divided(box):
                found = box_bounds_s(parts, plain, parts_of_box).tolist()
                (at,) = (i for i, b in enumerate(parts_of_box) if holds(b, plan))
                assert found[at] <= exact
                assert found[at] >= least * (1 - 1e-6)
                box, least = parts_of_box[at], found[at]
            assert box == single(plan)
            assert least == pytest.approx(exact, rel=1e-6)


def holds(box: Box, plan: object) -> bool:
    return all(getattr(plan, name) in values for name, values in box._asdict().items())


@pytest.mark.parametrize("space", [LLAMA, EXPERTS], ids=lambda s: s.workload.model.name)
def test_no_box_is_said_not_to_fit_that_holds_a_plan_that_does(space: WideSpace) -> None:
    shared = SharedCosts(space.workload, space.cluster)
    parts = shared.parts_of(space.constraints)
    assert isinstance(parts, RelaxedParts)
    verdicts = set()
    rng = Random(5)
    for ratio in (0.3, 0.8):
        limit = ratio * space.cluster.accelerator.memory_bytes
        for row in rng.sample(range(space.num_rows), 40):
            plain, box = space.row(row), space.box(row)
            plan = rng.choice(list(space.variants(row)))
            moments = shared.moments(plain)
            fits = shared.judge(plan, ratio).fits
            verdicts.add(fits)
            assert bool(box_fits(parts, plain, [single(plan)], moments, limit)[0]) == fits
            assert box_fits(parts, plain, [box], moments, limit)[0] or not fits
    assert verdicts == {True, False}


@pytest.mark.parametrize(
    ("goal", "ratio"), [(STEP_TIME, 0.8), (STEP_TIME, 0.4), (LEAST_MEMORY, 0.8), (STEP_TIME, 0.05)]
)
def test_the_proven_optimum_is_that_of_brute_force(goal: Goal, ratio: float) -> None:
    every = exhaustive(SMALL.workload, SMALL.cluster, list(SMALL), memory_ratio=ratio, goal=goal)
    found = run_planner("branch-and-bound", SMALL, memory_ratio=ratio, goal=goal, with_gap=True)
    assert found.proven
    assert (found.best is None) == (every.best is None) == (ratio == 0.05)
    if found.best is not None and every.best is not None:
        assert goal.key(found.best) == goal.key(every.best)
        assert found.gap == 0.0
        assert found.num_asked < len(SMALL) / 20


def test_a_proof_needs_every_variant() -> None:
    """The best plan alone proves nothing: others may be better as far as is known."""
    best = run_planner("branch-and-bound", SMALL).best
    assert best is not None

    def lucky(space: Space, evaluate: Evaluator, rng: Random) -> None:
        evaluate(best.plan)

    alone = run_planner(lucky, SMALL, with_gap=True)
    assert not alone.proven
    assert alone.gap is not None
    assert 0 < alone.gap < 1
    some = run_planner("random", SMALL, budget=Budget(evaluations=100), with_gap=True)
    assert not some.proven


def test_every_planner_can_search_it() -> None:
    for planner in ("annealing", "evolution", "mcmc", "beam", "nsga2", "bayesian", "grid"):
        report = run_planner(planner, LLAMA, budget=Budget(evaluations=60), seed=1)
        assert not report.failed, report.stopped
        assert all(trial.plan in LLAMA for trial in report.trials)
        assert report.best is not None


def test_a_box_is_divided_into_its_variants() -> None:
    box = SMALL.box(len(SMALL.groups))
    waiting, found = [box], []
    while waiting:
        parts = divided(waiting.pop())
        waiting += parts
        found += [p for p in parts if all(len(v) == 1 for v in p)]
    everything = [Box(*((value,) for value in values)) for values in product(*box)]
    assert sorted(found, key=str) == sorted(everything, key=str)
