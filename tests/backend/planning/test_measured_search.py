"""Choosing a plan for a chain of layers from costs, here made up."""

import logging

import pytest
from torch import nn

from parplan.backend.calibration.layer_times import LayerSetting, LayerTimes
from parplan.backend.calibration.machine_costs import MachineCosts
from parplan.backend.models.chain import Chain
from parplan.backend.planning.measured_costs import MeasuredCosts
from parplan.backend.planning.search import measurable_plans, search
from parplan.errors import ParplanError
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan

CHAIN = Chain(
    layers=tuple(nn.Linear(10, 10, bias=False) for _ in range(4)),
    num_first=0,
    num_last=0,
    loss_fn=lambda outputs, targets: outputs,
)
PLANS = measurable_plans(2, 4, 8, Options(activation_recomputation=False))


def times(plans=PLANS, saved_bytes=0.0):
    """A layer takes a second per row, twice that backward."""
    return {
        LayerSetting(p.batch_per_device, p.recomputation): 4
        * (
            LayerTimes(
                forward_s=p.batch_per_device,
                backward_s=2 * p.batch_per_device,
                first_backward_s=2 * p.batch_per_device,
                saved_bytes=saved_bytes * p.batch_per_device,
                output_bytes=40.0 * p.batch_per_device,
            ),
        )
        for p in plans
    }


def choose(machine, **options):
    return search(MeasuredCosts(CHAIN, times(**options), machine), PLANS, Options()).plan


def test_free_communication_makes_data_parallelism_fastest():
    assert choose(MachineCosts()).data_parallel == 2


def test_dear_reductions_make_a_pipeline_fastest():
    plan = choose(MachineCosts(reduce_latency_s=1000.0))
    assert (plan.num_stages, plan.num_micro_batches) == (2, 8)


def test_late_messages_make_the_schedule_that_waits_for_fewer_fastest():
    # GPipe waits for a message once per hop and direction, 1F1B in every micro-batch.
    machine = MachineCosts(reduce_latency_s=1000.0, latency_s=30.0)
    assert choose(machine).schedule == "gpipe"


def test_a_stage_has_the_costs_of_its_layers():
    plan = Plan(num_stages=2, num_micro_batches=4, batch_per_device=2, stage_layers=(3, 1))
    machine = MachineCosts(optimizer_s_per_parameter=0.5)
    (first, second), needs = MeasuredCosts(CHAIN, times(saved_bytes=7.0), machine).stages(plan)
    assert (first.forward_s, second.forward_s) == (6.0, 2.0)
    assert (first.input_gradient_s, second.input_gradient_s) == (12.0, 4.0)
    assert (first.optimizer_s, second.optimizer_s) == (150.0, 50.0)
    # 3 layers of 100 parameters; 7 bytes for each of 2 rows.
    assert (needs[0].parameter_bytes, needs[0].optimizer_bytes) == (1200, 2400)
    assert [need.saved_bytes for need in needs] == [42.0, 14.0]


def test_what_does_not_fit_is_not_chosen():
    # A layer: 4 copies of 400 bytes. Data parallel: 4 layers, 4 rows each of 100 bytes saved.
    machine = MachineCosts(memory_bytes=(4 * 1600 + 1599) / 0.8)
    plan = choose(machine, saved_bytes=100.0)
    assert not (plan.data_parallel == 2 and plan.num_micro_batches == 1)


def test_when_nothing_fits_the_reason_is_given():
    with pytest.raises(ParplanError, match=r"no plan fits in memory: stage 0: .* of 0.0 GB"):
        choose(MachineCosts(memory_bytes=1.0))


def test_an_impossible_request_is_refused_with_what_was_asked():
    with pytest.raises(ParplanError, match="no plan for a global batch of 7 on 2 processes"):
        measurable_plans(2, 1, 7, Options())


def test_detailed_log_two_writes_every_candidate(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "parplan"):
        search(MeasuredCosts(CHAIN, times(), MachineCosts()), PLANS, Options(detailed_log=2))
    assert len((tmp_path / "autoconfig_log.dump").read_text().splitlines()) == len(PLANS)
    assert f"The number of candidates is {len(PLANS)}." in caplog.messages
