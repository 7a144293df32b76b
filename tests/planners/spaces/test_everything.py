"""The widest space: the dimensions that experts use, bounded layout by layout."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.bounds.bounds_by_layout import BoundsByLayout
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import SIMULATED, Constraints, Range
from parplan.planners.spaces.everything import everything
from parplan.planners.spaces.layouts import stage_divisions
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import MixtureOfExperts, Model, model_preset
from parplan.sim.plan import Plan, layers_with_ends, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload

DENSE = Model(
    name="dense", num_layers=10, hidden_size=512, num_heads=8, num_kv_heads=2, ffn_size=2048,
    vocab_size=32000, mlp="gated", norm="rmsnorm", bias=False, tied_embeddings=False,
    source="test",
)  # fmt: skip
EXPERTS = Model(
    name="experts", num_layers=6, hidden_size=512, num_heads=8, num_kv_heads=8, ffn_size=1024,
    vocab_size=32000, mlp="gated", norm="rmsnorm", bias=False, tied_embeddings=False,
    moe=MixtureOfExperts(num_experts=8, top_k=2, ffn_size=1024), source="test",
)  # fmt: skip


def small(model: Model, **given: object) -> Space:
    workload = Workload(model=model, seq_len=1024, global_batch=16)
    allowed = Constraints(
        tensor_parallel_across_nodes=True,
        unequal_chunks=True,
        **{
            "virtual_stages": Range(),
            "stage_ends": (0, 2, 3),
            "schedule": ("1f1b", "interleaved-1f1b", "looped-bfs"),
            **given,
        },  # type: ignore[arg-type]
    )
    return make_space(workload, cluster_preset("16xh100"), allowed)


SPACES = [
    small(DENSE, zero_stage=(0, 3), recomputation=("none", "between products", "full")),
    small(
        EXPERTS,
        zero_stage=(1,),
        expert_tensor_parallel=(1,),
        recomputation=("selective", "experts"),
        shard_group=Range(min=1),
        recomputed_layers=Range(min=1),
        batch_per_device=(1, 2),
    ),
    small(
        replace(DENSE, name="every schedule"),
        schedule=SIMULATED,
        tensor_parallel=(1, 2),
        num_stages=(2, 4),
        virtual_stages=(1, 2),
        stage_ends=(0, 2),
        zero_stage=(0, 2),
        recomputation=("none", "full"),
        sequence_parallel=(False,),
    ),
]


@pytest.mark.parametrize(
    ("layers", "stages", "ends", "counts"),
    [
        (126, 16, 2, (7, *[8] * 14, 7)),
        (40, 4, 3, (10, 11, 11, 8)),
        (30, 8, 2, (3, *[4] * 6, 3)),
        (22, 24, 2, (0, *[1] * 22, 0)),
        (3, 8, 2, None),
        (8, 4, 0, None),
    ],
)
def test_ends_that_count_as_layers_make_the_first_and_last_stage_short(
    layers: int, stages: int, ends: int, counts: tuple[int, ...] | None
) -> None:
    assert layers_with_ends(layers, stages, ends) == counts


def test_layers_that_do_not_divide_are_divided_nevertheless() -> None:
    unequal = stage_divisions(10, 4, (0, 2), unequal_chunks=True)
    assert unequal == ((1, 0), (1, 2), (2, 0), (2, 2), (3, 2))
    assert stage_divisions(10, 4, (0,), unequal_chunks=False) == ((1, 0),)
    # 126 layers on 16 ranks: a layer short at both ends is the only equal division.
    assert (1, 2) in stage_divisions(126, 16, (0, 2, 3), unequal_chunks=False)


def test_what_experts_ran_is_in_the_widest_space() -> None:
    llama = Workload(model=model_preset("llama3-405b"), seq_len=8192, global_batch=2048)
    cluster = cluster_preset("16384xh100")
    space = make_space(llama, cluster, everything(llama, cluster))
    run = Plan(
        tensor_parallel=8, sequence_parallel=True, num_stages=16, data_parallel=128,
        num_micro_batches=16, stage_layers=(7, *[8] * 14, 7),
    )  # fmt: skip
    assert run in space
    assert Plan(data_parallel=16384, num_micro_batches=1) not in space


@pytest.mark.parametrize(
    ("model", "devices", "degrees"),
    [
        ("deepseek-v2", 128, (1, 4, 32, 1)),
        ("glm-4.5", 256, (2, 8, 16, 1)),
        ("qwen3-235b-a22b", 256, (4, 16, 8, 1)),
        ("qwen3-235b-a22b", 256, (4, 16, 8, 2)),
        ("qwen3-30b-a3b", 16, (4, 2, 4, 1)),
        ("kimi-k2", 512, (2, 16, 32, 1)),
        ("deepseek-v3", 1024, (2, 16, 64, 1)),
    ],
)
def test_plans_of_megatron_bridges_guide_are_in_it(
    model: str, devices: int, degrees: tuple[int, int, int, int]
) -> None:
    """Tensor, pipeline, expert and context parallelism; experts are not split (its recipes)."""
    tensor, stages, expert, context = degrees
    replicas = devices // (tensor * stages * context)
    job = Workload(model=model_preset(model), seq_len=8192, global_batch=64 * replicas)
    cluster = cluster_preset(f"{devices}xh100")
    plan = Plan(
        tensor_parallel=tensor, sequence_parallel=tensor > 1, num_stages=stages,
        context_parallel=context, data_parallel=replicas, num_micro_batches=64,
        expert_parallel=expert, expert_tensor_parallel=1 if tensor > 1 else None,
        **zero_fields(1),
    )  # fmt: skip
    assert plan in make_space(job, cluster, everything(job, cluster))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.workload.model.name)
def test_every_sampled_plan_is_in_the_space_laid_out_and_above_its_bounds(space: Space) -> None:
    rng = Random(3)
    shared = SharedCosts(space.workload, space.cluster)
    table = BoundsByLayout(space, 1.0, shared.parts_of(space.constraints), shared.moments_of)
    lower_bounds = table.of_layouts
    rows = np.repeat(lower_bounds, [group.size for group in space.groups])
    table.open_all()
    for _ in range(60):
        row = rng.randrange(space.num_rows)
        for plan in (space.row(row), rng.choice(list(space.variants(row)))):
            assert plan in space
            step_s = predict(compile_plan(space.workload, space.cluster, plan)).step_s
            assert rows[row] <= step_s
            assert table.of_plans[row] == np.inf or table.of_plans[row] <= step_s


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.workload.model.name)
def test_branch_and_bound_finds_what_trying_everything_finds(space: Space) -> None:
    found = run_planner("branch-and-bound", space, with_gap=True)
    every = run_planner("exhaustive", space)
    assert found.best is not None
    assert every.best is not None
    assert found.best.step_s == every.best.step_s
    assert found.proven
    assert found.gap == 0.0
    assert found.num_asked < every.num_asked / 10


def test_every_schedule_is_searched_with_all_that_it_can_have() -> None:
    (space,) = (s for s in SPACES if s.workload.model.name == "every schedule")
    found = {(p.schedule, p.zero_stage) for p in space if p.data_parallel > 1}
    assert found == {(name, zero) for name in SIMULATED for zero in (0, 2)}
    job = space.workload
    assert set(everything(job, space.cluster).schedule) == set(SIMULATED)


def test_two_copies_of_a_stage_keep_whole_gradients() -> None:
    job = Workload(model=DENSE, seq_len=1024, global_batch=16)
    sharded = Plan(
        num_stages=4, data_parallel=2, num_micro_batches=8, tensor_parallel=2,
        schedule="dualpipe", **zero_fields(2),
    )  # fmt: skip
    unsharded = replace(sharded, **zero_fields(0))
    plans = [sharded, unsharded, replace(unsharded, schedule="zb-h1")]
    cluster = cluster_preset("16xh100")
    two, whole, one = (
        [rank.gradient_bytes for rank in compile_plan(job, cluster, plan).memory] for plan in plans
    )
    assert two == whole
    # Of a rank at either end, of two stages.
    assert two[0] == one[0] + one[-1]
    # ... and are reduced once, so that the step can be simulated.
    assert predict(compile_plan(job, cluster, sharded)).step_s > 0


def test_uneven_stages_may_be_those_of_short_ends() -> None:
    space = small(DENSE, uneven_stages=True, stage_ends=(0,))
    plan = next(p for p in space if p.total_stages == 4 and p.virtual_stages == 1)
    assert replace(plan, stage_layers=(2, 3, 3, 2)) in space
    assert replace(plan, stage_layers=(1, 4, 4, 1)) in space
    assert replace(plan, stage_layers=(1, 4, 4, 1)) not in small(DENSE)
    assert replace(plan, stage_layers=(2, 3, 3, 2)) in small(DENSE)
