"""The candidates of Advanced Parallelization, against its published counts."""

import json
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.ap.candidates import ap_candidates, one_batch
from parplan.planners.ap.log import selected_line
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, check_plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

CASES = json.loads(
    (Path(__file__).parents[3] / "experiments" / "papers" / "ap_cases.json").read_text()
)["cases"]
CLUSTER = cluster_preset("4xLarge.2048GB")
REFERENCE = Workload(
    model=model_preset("llama2-13b"), seq_len=1024, global_batch=64, framework=NO_OVERHEAD
)


def published(varied: bool) -> list[dict]:
    return [case for case in CASES if case["batch_varied"] is varied]


def count(case: dict) -> int:
    # The counts depend on the batch and the machine; of the model only on its number of layers,
    # which exceeds the stages in every case.
    workload = Workload(
        model=model_preset("llama2-13b"),
        seq_len=case["seq_len"],
        global_batch=case["global_batch"],
        framework=NO_OVERHEAD,
    )
    cluster = cluster_preset(case["cluster"])
    assert cluster.num_accelerators == case["num_devices"]
    plans = ap_candidates(workload, cluster, Options(), case["rule"], case["batch_varied"])
    assert len(set(plans)) == len(plans)
    return len(plans)


def test_all_published_logs_are_here() -> None:
    assert (len(published(varied=False)), len(published(varied=True))) == (14, 2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_published_count_follows_from_the_rule(case: dict) -> None:
    assert count(case) == case["num_candidates"]


@pytest.mark.parametrize("case", published(varied=False), ids=lambda case: case["id"])
def test_the_published_choice_is_a_candidate_printed_alike(case: dict) -> None:
    workload = Workload(
        model=model_preset("llama2-13b"),
        seq_len=case["seq_len"],
        global_batch=case["global_batch"],
        framework=NO_OVERHEAD,
    )
    plans = ap_candidates(workload, cluster_preset(case["cluster"]), Options(), case["rule"])
    assert case["selected"] in [selected_line(plan, case["rule"]) for plan in plans]


@pytest.mark.parametrize("version", ["24.2.0", "24.3", "24.5"])
def test_every_candidate_lays_out_the_batch(version: str) -> None:
    for plan in ap_candidates(REFERENCE, CLUSTER, Options(), version):
        check_plan(plan, REFERENCE, CLUSTER.num_accelerators)


def candidates(**options: object) -> list[Plan]:
    return ap_candidates(REFERENCE, CLUSTER, Options(**options))  # type: ignore[arg-type]


def test_options_restrict_the_fields_they_name() -> None:
    assert {p.num_stages for p in candidates()} == {1, 2, 4}
    assert {p.num_stages for p in candidates(num_stages=2)} == {1, 2}
    assert {p.num_stages for p in candidates(pipeline_parallel=False)} == {1}
    assert {p.num_micro_batches for p in candidates(num_micro_batches=4)} == {1, 4}
    assert {p.recomputation for p in candidates(activation_recomputation=False)} == {"none"}
    assert "none" not in {p.recomputation for p in candidates(activation_recomputation=True)}
    assert {p.zero_stage for p in candidates(distribute_parameter=False)} == {0}


def test_a_varying_batch_is_planned_for_its_largest() -> None:
    assert one_batch([256, 1]) == (256, True)
    assert one_batch([64]) == (64, False)
    with pytest.raises(ParplanError, match="at least 1"):
        one_batch([64, 0])


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ParplanError, match=r"AP version '23.0'"):
        ap_candidates(REFERENCE, CLUSTER, Options(), "23.0")
