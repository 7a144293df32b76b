"""Spaces: what is in them, how they are walked, and what is said of those that are empty."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.spaces.constraints import Constraints, Range, read_constraints
from parplan.planners.spaces.make import full_candidates, full_space, make_space
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.models.model import model_preset
from parplan.sim.plan import check_plan
from parplan.sim.schedules import why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xh100")
WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
EXPERTS = Workload(
    model=model_preset("mixtral-8x7b"), seq_len=2048, global_batch=8, framework=NO_OVERHEAD
)


def space(workload: Workload = WORKLOAD, **constraints: object) -> Space:
    return make_space(workload, CLUSTER, Constraints(**constraints))  # type: ignore[arg-type]


SPACES = [
    space(),
    space(context_parallel=Range(max=4), schedule=("zb-v", "1f1b"), zero_stage=(0, 3)),
    space(data_parallel=(2,), num_stages=Range(max=4)),
    space(EXPERTS, zero_stage=Range(max=1), sequence_parallel=(True,)),
]


@pytest.mark.parametrize("plans", SPACES)
def test_every_plan_can_be_laid_out_and_none_is_there_twice(plans: Space) -> None:
    everything = list(plans)
    assert len(everything) == len(plans) == len(set(everything))
    for plan in everything:
        check_plan(plan, plans.workload, CLUSTER.num_accelerators)
        assert not why_not(
            plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
        )


@pytest.mark.parametrize("plans", SPACES)
def test_numbers_and_walks_agree(plans: Space) -> None:
    everything = list(plans)
    assert [plans[i] for i in range(0, len(plans), 7)] == everything[::7]
    assert plans[-1] == everything[-1]
    with pytest.raises(IndexError):
        plans[len(plans)]
    assert all(plan in plans for plan in everything[::5])
    assert {point_of(plan) for plan in everything[::5]} <= {point_of(p) for p in everything}


def test_what_is_not_in_the_space() -> None:
    plan = SPACES[0][0]
    assert plan in SPACES[0]
    assert object() not in SPACES[0]
    small = space(tensor_parallel=(2,))
    assert plan not in small
    with pytest.raises(ParplanError, match="not a plan of this space"):
        small.neighbours(plan)


def test_the_constraints_are_what_a_filter_would_leave() -> None:
    wanted = Constraints(
        tensor_parallel=(2, 4), data_parallel=Range(max=2), zero_stage=(1,), schedule=("gpipe",)
    )
    kept = [
        plan
        for plan in make_space(WORKLOAD, CLUSTER)
        if plan.tensor_parallel in (2, 4)
        and plan.data_parallel <= 2
        and (plan.zero_stage == 1 or plan.data_parallel == 1)
        and (plan.schedule == "gpipe" or plan.num_stages == 1)
    ]
    assert list(make_space(WORKLOAD, CLUSTER, wanted)) == kept


def test_every_plan_is_reached_by_moves() -> None:
    for plans in SPACES[1:]:
        seen = {plans[0]}
        border = [plans[0]]
        while border:
            border = [n for plan in border for n in plans.neighbours(plan) if n not in seen]
            border = list(dict.fromkeys(border))
            seen.update(border)
        assert len(seen) == len(plans)


@settings(max_examples=50, deadline=None)
@given(which=st.integers(0, len(SPACES) - 1), seed=st.integers(0, 10**6))
def test_neighbours_are_others_of_the_space(which: int, seed: int) -> None:
    plans = SPACES[which]
    plan = plans.sample(Random(seed))
    found = plans.neighbours(plan)
    assert found == list(dict.fromkeys(found))
    assert plan not in found
    assert all(other in plans for other in found)
    assert plans.nearest(point_of(plan)) == plan


def test_the_full_space_is_the_full_candidates() -> None:
    for options in (Options(), Options(num_stages=4, num_micro_batches=4)):
        assert list(full_space(WORKLOAD, CLUSTER, options)) == full_candidates(
            WORKLOAD, CLUSTER, options
        )


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"tensor_parallel": (3,)}, "^tensor_parallel: 3; possible on 8xh100: 1, 2, 4, 8$"),
        (
            {"tensor_parallel": (8,), "num_stages": (2,), "zero_stage": (1,)},
            "^no plan for 8xh100 fulfils all of: tensor_parallel: 8; num_stages: 2; "
            "possible with tensor_parallel: 1, 2, 4, or with num_stages: 1$",
        ),
        ({"schedule": ()}, "schedule: at least one value"),
        ({"schedule": ("1f2b",)}, "unknown schedule '1f2b'; did you mean"),
        ({"zero_stage": (4,)}, "zero_stage: 0 to 3, got 4"),
        ({"memory_ratio": 1.5}, "memory_ratio: must be above 0 and at most 1"),
    ],
)
def test_contradictions_are_named(constraints: dict[str, object], message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        space(**constraints)


def test_a_batch_that_does_not_divide() -> None:
    odd = Workload(model=WORKLOAD.model, seq_len=2048, global_batch=7, framework=NO_OVERHEAD)
    assert {plan.data_parallel for plan in make_space(odd, CLUSTER)} == {1}
    with pytest.raises(ParplanError, match="data_parallel: at least 2; possible on 8xh100: 1"):
        make_space(odd, CLUSTER, Constraints(data_parallel=Range(min=2)))


def test_a_file_of_constraints(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        "tensor_parallel = { max = 8 }\nnum_stages = [1, 2]\ncontext_parallel = 2\n"
        'schedule = "zb-h1"\nrecomputation = ["none", "full"]\nmemory_ratio = 0.9\n'
    )
    assert read_constraints(file) == Constraints(
        tensor_parallel=Range(max=8),
        num_stages=(1, 2),
        context_parallel=(2,),
        schedule=("zb-h1",),
        recomputation=("none", "full"),
        memory_ratio=0.9,
    )


def test_short_names_and_every_key_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    short = "tp = 8\npp = [1, 2]\ndp = {max = 4}\ncp = 1\nep = 2\netp = 1\nmbs = 1\nvpp = 2\n"
    file.write_text(f"{short}tensor_parallel_across_nodes = true\nunequal_chunks = true\n")
    assert read_constraints(file) == Constraints(
        tensor_parallel=(8,),
        num_stages=(1, 2),
        data_parallel=Range(max=4),
        context_parallel=(1,),
        expert_parallel=(2,),
        expert_tensor_parallel=(1,),
        batch_per_device=(1,),
        virtual_stages=(2,),
        tensor_parallel_across_nodes=True,
        unequal_chunks=True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor = 8", "space.toml: unknown key 'tensor'; did you mean tensor_parallel"),
        ("tp = 8\ntensor_parallel = 4", "space.toml: tensor_parallel is given twice"),
        ("num_stages = true", "space.toml.num_stages: expected a whole number"),
        ("num_stages = { maximum = 2 }", "space.toml.num_stages: unknown key 'maximum'"),
        ("num_stages = { min = 4, max = 2 }", "space.toml.num_stages: max: 2 is below min 4"),
        ("schedule = 1", r"space.toml.schedule\[0\]: expected str, got 1"),
        ('recomputation = "some"', "space.toml: unknown recomputation 'some'; did you mean none"),
        ('schedule = "1f1c"', "space.toml: unknown schedule '1f1c'"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(ParplanError, match=message):
        read_constraints(file)
