"""Plans: their JSON, their file, and what does not lay out."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, check_plan, zero_fields
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=32, framework=NO_OVERHEAD
)
count = st.integers(1, 64)
plans = st.builds(
    lambda zero, **fields: Plan(**zero_fields(zero), **fields),
    zero=st.integers(0, 3),
    num_stages=count,
    num_micro_batches=count,
    batch_per_device=count,
    data_parallel=count,
    tensor_parallel=count,
    sequence_parallel=st.booleans(),
    offload_optimizer=st.booleans(),
    offload_activations=st.booleans(),
    recomputation=st.sampled_from(["none", "selective", "full"]),
    schedule=st.sampled_from(["gpipe", "1f1b"]),
)


@given(plan=plans)
@settings(deadline=None)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_an_uneven_plan_survives_json() -> None:
    plan = Plan(num_stages=2, stage_layers=(20, 12))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_file_holds_all_that_was_planned(tmp_path: Path) -> None:
    plan = Plan(num_stages=2, data_parallel=4, num_micro_batches=8)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_table(plan, WORKLOAD, "8xh100")))
    assert read_plan(path) == (plan, WORKLOAD, "8xh100")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parplan_plan": 2}, "not a plan file"),
        ({"plan": {"num_stage": 2}}, "plan: unknown key 'num_stage'"),
        ({"plan": {"num_stages": 0}}, "plan: num_stages: must be at least 1, got 0"),
        ({"plan": {"recomputation": "some"}}, "'some' is not one of none, selective, full"),
        ({"workload": {}}, "workload: missing key 'model'"),
        ({"cluster": 8}, "cluster: expected a name, got 8"),
    ],
)
def test_a_malformed_plan_file_is_refused_by_file_and_key(
    tmp_path: Path, change: dict, message: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_table(Plan(), WORKLOAD, "8xh100") | change))
    with pytest.raises(ParplanError, match=message) as error:
        read_plan(path)
    assert str(path) in str(error.value)


def test_a_truncated_plan_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_table(Plan(), WORKLOAD, "8xh100"))[:-20])
    with pytest.raises(ParplanError, match="not valid JSON"):
        read_plan(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_parallel": 4}, "= 4 devices, but the cluster has 8"),
        ({"data_parallel": 8, "num_micro_batches": 3}, "= 24, but the global batch is 32"),
        ({"num_stages": 4, "data_parallel": 2, "virtual_stages": 16}, "64 stages, but llama3-8b"),
        ({"tensor_parallel": 8, "num_micro_batches": 32, "stage_layers": (31,)}, "sum to 31"),
    ],
)
def test_what_does_not_lay_out_says_why(fields: dict, message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        check_plan(Plan(**fields), WORKLOAD, 8)


def test_zero_stages_build_on_each_other() -> None:
    assert [Plan(**zero_fields(zero)).zero_stage for zero in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ParplanError, match="needs distribute_param"):
        Plan(distribute_gradient=True)
