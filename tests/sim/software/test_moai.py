"""The switches of the stack that compiles whole graphs: what each does to memory and time."""

from dataclasses import replace
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.sim.costs import StageCosts
from parplan.sim.memory.peak import StageNeeds, stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import Software
from parplan.sim.software.presets import preset
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("Large.256GB")
MODEL = model_preset("llama2-7b")
TOKENS = 2 * 1024
HIDDEN_BYTES = 2 * TOKENS * MODEL.hidden_size
LOGITS = TOKENS * MODEL.vocab_size


def workload(**software: Any) -> Workload:
    return Workload(
        model=MODEL,
        seq_len=1024,
        global_batch=16,
        framework=NO_OVERHEAD,
        software=Software(**software),
    )


def plan(**fields: Any) -> Plan:
    usual: dict[str, Any] = {"num_stages": 1, "batch_per_device": 2, "data_parallel": 4}
    usual |= {"num_micro_batches": 2, **zero_fields(2)}
    return Plan(**(usual | fields))


def needs(own: Plan, **software: Any) -> StageNeeds:
    return stage_needs(workload(**software), own)[-1]


def costs(own: Plan, **software: Any) -> StageCosts:
    return compile_plan(workload(**software), CLUSTER, own).costs[-1]


def test_blocks_keep_more_than_their_backward_reads() -> None:
    plain, more = needs(plan()), needs(plan(), kept_activations=2.5)
    ends = stage_needs(replace(workload(), model=replace(MODEL, num_layers=1)), plan())[0]
    block = (plain.saved_bytes - ends.saved_bytes) / (MODEL.num_layers - 1)
    assert more.saved_bytes - plain.saved_bytes == pytest.approx(1.5 * MODEL.num_layers * block)


def test_selective_recomputation_keeps_a_share_and_costs_a_share() -> None:
    again = plan(recomputation="selective")
    kept, given = needs(plan()), needs(again, selective_keeps=0.25)
    head = needs(again, selective_keeps=0.0).saved_bytes
    # A share of what the plan alone would keep, scores of attention not among it.
    by_plan = needs(again)
    assert given.saved_bytes - head == pytest.approx(0.25 * (by_plan.saved_bytes - head))
    # The block that runs again has all of it, beside what the loss works with.
    block, part = ((n.saved_bytes - head) / MODEL.num_layers for n in (kept, given))
    assert given.recomputed_bytes == pytest.approx(max(block - part, 2 * LOGITS))
    none = costs(again, selective_repeats=0.0)
    some = costs(again, selective_repeats=0.5)
    blocks_s = costs(plan(recomputation="full")).input_gradient_s - none.input_gradient_s
    assert some.input_gradient_s - none.input_gradient_s == pytest.approx(0.5 * blocks_s)


def test_a_stage_that_is_recomputed_whole_needs_as_much_as_none_without_a_pipeline() -> None:
    whole = needs(plan(recomputation="full"), recomputes_stages=True, loss_in_place=True)
    none = needs(plan(), loss_in_place=True)
    peak = whole.saved_bytes + whole.recomputed_bytes
    assert peak == pytest.approx(none.saved_bytes + HIDDEN_BYTES)
    by_block = needs(plan(recomputation="full"), loss_in_place=True)
    assert by_block.saved_bytes + by_block.recomputed_bytes < 0.3 * peak
    # Of several micro-batches on their way, only the inputs add up.
    split = plan(num_stages=2, data_parallel=2, num_micro_batches=4, recomputation="full")
    assert stage_needs(workload(recomputes_stages=True), split)[0].saved_bytes == HIDDEN_BYTES


def test_the_loss_works_in_place() -> None:
    work = replace(workload(), model=replace(MODEL, vocab_size=10**6))
    beside = stage_needs(work, plan())[0].recomputed_bytes
    in_place = replace(work, software=Software(loss_in_place=True))
    assert beside == 2 * TOKENS * 10**6
    assert stage_needs(in_place, plan())[0].recomputed_bytes == 0


def test_a_share_of_the_gradients_is_there_whole() -> None:
    whole = needs(plan(), whole_gradients=0.5)
    assert whole.gradient_bytes == MODEL.num_parameters
    assert whole.gathered_gradient_bytes == 0
    layer = needs(plan(**zero_fields(3)), whole_gradients=0.5, gathered_units=1)
    assert layer.gradient_bytes == pytest.approx(0.5 * layer.gathered_parameter_bytes)


def test_products_take_what_the_tokens_of_a_micro_batch_allow() -> None:
    peak = CLUSTER.accelerator.peak_flop_per_s.of("bf16")
    few, many = (
        costs(plan(), product_share=share, half_rate_tokens=tokens).forward_s
        for share, tokens in ((0.4, 3 * TOKENS), (0.4, 0.0))
    )
    flops = 0.75 * workload().causal_flops / 3 / workload().global_batch * 2
    assert few - many > 2.9 * flops / (0.4 * peak)
    assert many > flops / (0.4 * peak)


def test_nothing_runs_beside_exchanges() -> None:
    own = plan(**zero_fields(3))
    beside, alone = costs(own), costs(own, exposed_exchanges=True)
    rate = 25e9
    given = costs(own, exposed_exchanges=True, exchange_bytes_per_s=rate)
    gathered_s = 2 * MODEL.num_parameters * 3 / 4 / rate
    plain = costs(own, exposed_exchanges=True, exchange_bytes_per_s=1e30)
    assert alone.forward_s > beside.forward_s
    assert given.forward_s - plain.forward_s == pytest.approx(gathered_s, rel=1e-6)
    assert given.reduce_s == pytest.approx(gathered_s, rel=1e-6)
    assert alone.reduce_buckets == 1 < beside.reduce_buckets


def test_each_pass_through_a_pipeline_costs_its_message() -> None:
    split = plan(num_stages=2, data_parallel=2, num_micro_batches=4)
    plain, more = costs(split), costs(split, message_s=0.02)
    assert more.forward_s - plain.forward_s == pytest.approx(0.02)
    assert more.input_gradient_s - plain.input_gradient_s == pytest.approx(0.02)
    assert costs(plan(), message_s=0.02) == costs(plan())


@pytest.mark.parametrize("name", ["kept_activations", "product_share", "exchange_bytes_per_s"])
def test_constants_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ParplanError, match=f"{name}: must be positive, got 0"):
        Software(**{name: 0.0})  # type: ignore[arg-type]
    with pytest.raises(ParplanError, match="selective_keeps: must not be negative, got -1"):
        Software(selective_keeps=-1)
    with pytest.raises(ParplanError, match="reserved_bytes: must not be negative, got -1"):
        Software(reserved_bytes=-1)


def test_a_reserve_is_held_on_every_rank_once() -> None:
    split = plan(num_stages=2, data_parallel=2, num_micro_batches=4, virtual_stages=2)
    split = replace(split, schedule="interleaved-1f1b")
    for own in (plan(), split):
        plain, more = (
            verdict_bytes(workload(reserved_bytes=reserved), own) for reserved in (0.0, 3e9)
        )
        assert [m - p for m, p in zip(more, plain, strict=True)] == pytest.approx(
            [3e9] * own.num_stages
        )


def verdict_bytes(work: Workload, own: Plan) -> list[float]:
    costs = SharedCosts(work, CLUSTER)
    return list(costs.judge(own, 1.0).memory_bytes)


def test_earlier_releases_differ_in_what_is_recomputed_whole_and_in_attention() -> None:
    later, earlier = preset("moai"), preset("moai-24.3")
    assert replace(later.software, recomputes_stages=False) == earlier.software
    assert earlier.workload["attention"] == "unfused"
    assert later.workload["attention"] == "flash"
    assert later.software.recomputes_stages
