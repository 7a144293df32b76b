"""Bounds with the fewest recomputed blocks: never above a plan that fits, whatever its depth."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.bounds.bounds_by_layout import BoundsByLayout
from parplan.planners.bounds.depths import depths_of
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.search.budget import Budget
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Range
from parplan.planners.spaces.everything import everything
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import MixtureOfExperts, Model
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

DENSE = Model(
    name="dense", num_layers=10, hidden_size=512, num_heads=8, num_kv_heads=2, ffn_size=2048,
    vocab_size=32000, mlp="gated", norm="rmsnorm", bias=False, tied_embeddings=False,
    source="test",
)  # fmt: skip
EXPERTS = replace(
    DENSE,
    name="experts",
    num_layers=7,
    moe=MixtureOfExperts(num_experts=4, top_k=2, ffn_size=1024, first_dense_layers=2),
)
JOBS = [(DENSE, 1024, 16), (EXPERTS, 2048, 8)]


def space_of(model: Model, seq_len: int, batch: int, ratio: float, **given: object) -> Space:
    workload = Workload(model=model, seq_len=seq_len, global_batch=batch)
    cluster = cluster_preset("8xh100")
    allowed = replace(everything(workload, cluster), memory_ratio=ratio, **given)  # type: ignore[arg-type]
    return make_space(workload, cluster, allowed)


def tight_ratio(space: Space, shared: SharedCosts) -> float:
    """The share of the memory by which about half of the plans fit."""
    rng, peaks = Random(1), []
    for _ in range(40):
        plan = space.sample(rng)
        peaks.append(max(rank.total_bytes for rank in shared.memory(plan)))
    return float(np.median(peaks)) / space.cluster.accelerator.memory_bytes


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job[0].name)
def test_parts_by_depth_are_those_of_every_depth(job: tuple[Model, int, int]) -> None:
    space, rng = space_of(*job, ratio=0.8), Random(5)
    parts = RelaxedParts(CostTables(space.workload, space.cluster), space.constraints)
    exact = CostTables(space.workload, space.cluster)
    seen = 0
    for _ in range(60):
        plan = space.row(rng.randrange(space.num_rows))
        found = depths_of(parts, plan)
        assert found is not None
        place = parts.kinds(plan).place
        allowed = parts.choices.of(plan).recomputed_layers
        numbers = sorted(10**6 if d is None else d for d in allowed)
        for at, number in enumerate(numbers):
            own = replace(plan, recomputed_layers=None if number == 10**6 else number)
            of_stage = exact.activations(own)[exact.kinds(own).place]
            assert np.allclose(found.activations[at][place], of_stage, rtol=1e-12)
            work = exact.layers(own)[exact.kinds(own).place]
            assert (found.layers[at][place] <= work).all()
            assert np.allclose(found.layers[at][place], work, rtol=1e-8)
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job[0].name)
def test_no_plan_that_fits_is_below_its_bound(job: tuple[Model, int, int]) -> None:
    whole = space_of(*job, ratio=0.8)
    shared = SharedCosts(whole.workload, whole.cluster)
    space = space_of(*job, ratio=tight_ratio(whole, shared))
    ratio = space.constraints.memory_ratio
    table = BoundsByLayout(space, ratio, shared.parts_of(space.constraints), shared.moments_of)
    plain = BoundsByLayout(space, ratio, shared.parts_of(space.constraints), shared.moments_of)
    table.open(range(len(space.groups)), ceiling=np.inf)
    plain.open_all()
    assert (table.of_plans >= plain.of_plans).all()
    assert (
        table.of_plans[np.isfinite(table.of_plans)] > plain.of_plans[np.isfinite(table.of_plans)]
    ).any()
    assert (np.isinf(table.of_plans) & np.isfinite(plain.of_plans)).any()
    rng, fitting = Random(7), 0
    by_row: dict[int, list[Plan]] = {}
    for _ in range(250):
        row = rng.randrange(space.num_rows)
        by_row.setdefault(row, list(space.variants(row)))
    for row, plans in by_row.items():
        (trial,) = shared.evaluated(ratio, [rng.choice(plans)])
        if trial.fits:
            fitting += 1
            assert trial.step_s is not None
            assert table.of_plans[row] <= trial.step_s
            assert table.of_layouts[layout_of(space, row)] <= trial.step_s
    assert 30 < fitting < 240


def layout_of(space: Space, row: int) -> int:
    ends = np.cumsum([group.size for group in space.groups])
    return int(np.searchsorted(ends, row, side="right"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job[0].name)
def test_the_best_under_tight_memory_is_what_trying_everything_finds(
    job: tuple[Model, int, int],
) -> None:
    few = {
        "tensor_parallel": (1, 2),
        "schedule": ("1f1b", "interleaved-zb", "hanayo"),
        "zero_stage": (1, 3),
        "batch_per_device": (1, 2),
        "recomputation": ("none", "between products", "full"),
        "num_stages": Range(min=2, max=4),
        "expert_tensor_parallel": (),
    }
    whole = space_of(*job, ratio=0.8, **few)
    ratio = tight_ratio(whole, SharedCosts(whole.workload, whole.cluster))
    space = space_of(*job, ratio=ratio, **few)
    found = run_planner("branch-and-bound", space, with_gap=True)
    every = run_planner("exhaustive", space)
    assert found.best is not None
    assert every.best is not None
    assert found.best.step_s == every.best.step_s
    assert found.proven
    assert found.num_asked < every.num_asked / 10
    # Plans that were tried because they are near the best leave nothing open.
    near = run_planner("branch-and-bound", space, budget=Budget(near=0.03), with_gap=True)
    assert near.num_asked > found.num_asked
    assert near.gap == 0.0
    assert near.untried_from >= found.best.step_s
