"""Which plans are refused before they start, and why."""

import pytest

from parplan.backend.executable import (
    check_executable,
    why_not_executable,
    why_not_split,
)
from parplan.backend.planning.search import measurable_plans
from parplan.backend.runtime.groups import shards_of
from parplan.errors import ParplanError
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.schedules import CATALOGUE

PIPELINE = {"num_stages": 2, "num_micro_batches": 4}

REFUSED = {
    "2 x data_parallel 3 = 6 processes, but 4 run": {"num_stages": 2, "data_parallel": 3},
    "expert_parallel 4": {"data_parallel": 4, "expert_parallel": 4},
    "expert_tensor_parallel 2": {"tensor_parallel": 4, "expert_tensor_parallel": 2},
    "recomputed_ops mlp": {
        "data_parallel": 4,
        "recomputation": "selective",
        "recomputed_ops": ("mlp",),
    },
    "overlap_tensor_parallel": {"tensor_parallel": 4, "overlap_tensor_parallel": True},
    "overlap_gradient_reduction": {"data_parallel": 4, "overlap_gradient_reduction": False},
    "cannot broadcast DTensors": {"data_parallel": 2, "tensor_parallel": 2, **zero_fields(1)},
    "shard_group 2": {"data_parallel": 4, "shard_group": 2, **zero_fields(1)},
    "overlap_parameter_gather": {
        "data_parallel": 4,
        "overlap_parameter_gather": True,
        **zero_fields(1),
    },
    "ZeRO-1.* with schedule zb-h1": {
        **PIPELINE,
        "data_parallel": 2,
        "schedule": "zb-h1",
        **zero_fields(1),
    },
    "ZeRO-3.* with schedule zb-v": {
        **PIPELINE,
        "data_parallel": 2,
        "schedule": "zb-v",
        "virtual_stages": 2,
        **zero_fields(3),
    },
    "schedule dualpipe ": {**PIPELINE, "data_parallel": 2, "schedule": "dualpipe"},
    "schedule 1f1b: virtual_stages 2": {**PIPELINE, "data_parallel": 2, "virtual_stages": 2},
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_is_one_line_with_the_field_and_the_reason(text) -> None:
    with pytest.raises(ParplanError, match=f"^plan: .*{text}") as caught:
        check_executable(Plan(**REFUSED[text]), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("fields", [{"data_parallel": 4}, {**PIPELINE, "data_parallel": 2}])
def test_every_zero_stage_runs_alone_and_in_a_pipeline(stage, fields) -> None:
    assert why_not_executable(Plan(**fields, **zero_fields(stage)), 4) == ""


def test_what_one_replica_does_not_shard_is_no_obstacle() -> None:
    plan = Plan(**PIPELINE, tensor_parallel=2, schedule="zb-h1", **zero_fields(3))
    assert why_not_executable(plan, 4) == ""


def test_searched_plans_can_be_executed() -> None:
    plans = measurable_plans(4, 8, 16, Options())
    assert plans
    for plan in plans:
        assert why_not_executable(plan, 4) == ""


def test_models_that_do_not_divide_are_refused() -> None:
    model = model_preset("gpt-tiny")
    assert why_not_split(model, Plan(tensor_parallel=4)) == ""
    assert why_not_split(model, Plan(tensor_parallel=8)) == (
        "tensor_parallel 8 does not divide num_heads 4"
    )


def test_replicas_are_copies_of_groups_that_share_the_parameters() -> None:
    assert shards_of(Plan(data_parallel=4)) == 4
    assert shards_of(Plan(data_parallel=4, **zero_fields(1))) == 4
    assert shards_of(Plan(data_parallel=4, **zero_fields(2))) == 4
    assert shards_of(Plan(data_parallel=4, shard_group=2, **zero_fields(3))) == 2
    # fully_shard with one rank per shard, where DistributedDataParallel does not work.
    assert shards_of(Plan(data_parallel=4, tensor_parallel=2)) == 1
    assert shards_of(Plan(**PIPELINE, data_parallel=4, schedule="zb-h1")) == 1


def test_the_catalogue_is_what_the_check_knows() -> None:
    for name, kind in CATALOGUE.items():
        plan = Plan(
            num_stages=2,
            num_micro_batches=4,
            schedule=name,
            virtual_stages=2 if 2 in kind.virtual_stages else 1,
        )
        assert (why_not_executable(plan, 2) == "") == kind.one_copy
