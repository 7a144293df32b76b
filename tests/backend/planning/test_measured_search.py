"""Choosing a plan for a chain of layers from costs, here made up."""

import logging
from dataclasses import replace

import pytest
from torch import nn

from parplan.backend.calibration.layer_times import LayerSetting, LayerTimes
from parplan.backend.calibration.machine_costs import MachineCosts
from parplan.backend.models.chain import Chain
from parplan.backend.planning.measured_costs import MeasuredCosts
from parplan.backend.planning.search import measurable_plans, search
from parplan.errors import ParplanError
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan, zero_fields

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


def test_sharded_plans_are_searched_where_they_are_asked_for():
    asked = Options(activation_recomputation=False, distribute_parameter=True)
    plans = measurable_plans(2, 4, 8, asked)
    assert {p.zero_stage for p in plans if p.data_parallel > 1} == {2, 3}
    assert {p.zero_stage for p in PLANS} == {0}
    assert {p.zero_stage for p in measurable_plans(1, 4, 8, asked)} == {0}


def test_a_sharded_stage_sends_as_much_as_the_whole_one_or_half_as_much_again():
    machine = MachineCosts(reduce_s_per_byte=0.01, optimizer_s_per_parameter=0.5)
    both = MeasuredCosts(CHAIN, times(), machine)
    whole = Plan(num_micro_batches=1, batch_per_device=4, data_parallel=2)
    plain, zero2, zero3 = (both.stages(replace(whole, **zero_fields(stage))) for stage in (0, 2, 3))
    # 400 parameters of 4 bytes: 16 s to reduce to all, half of it to the owners of parts.
    assert plain.costs[0].reduce_s == pytest.approx(16.0)
    assert zero2.costs[0].reduce_s == zero2.costs[0].gather_s == pytest.approx(8.0)
    assert zero3.costs[0].forward_s - plain.costs[0].forward_s == pytest.approx(8.0)
    assert zero3.costs[0].gather_s == 0.0
    assert plain.costs[0].optimizer_s == 2 * zero2.costs[0].optimizer_s
    held = [(n.parameter_bytes, n.gradient_bytes, n.optimizer_bytes) for (n,) in
            (plain.needs, zero2.needs, zero3.needs)]  # fmt: skip
    assert held == [(1600, 1600, 3200), (1600, 800, 1600), (800, 800, 1600)]
    assert zero3.needs[0].gathered_parameter_bytes == 400
