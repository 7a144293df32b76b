"""Seconds of a layer: sums, overlap, recomputation."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.hardware.kernels.kernel import Kernel, MemoryBound
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.times import MachineTimes, layer_costs, split_by_cause
from parplan.sim.software.framework import NO_OVERHEAD

NONE = frozenset[str]()


def seconds(kernel: Kernel) -> float:
    return kernel.num_bytes


TIMING = MachineTimes(kernel_s=seconds, exchange_s=lambda exchange: exchange.num_bytes)


def kernel(num_bytes: float) -> tuple[Kernel, ...]:
    return (MemoryBound(num_bytes=num_bytes),)


def exchange(num_bytes: float, overlaps: bool = False) -> tuple[Exchange, ...]:
    return (Exchange(group="tensor", op="all_reduce", num_bytes=num_bytes, overlaps=overlaps),)


PLAIN = Op(name="plain", forward=kernel(1), input_gradient=kernel(2), weight_gradient=kernel(4))


def test_a_layer_is_the_sum_of_its_operations() -> None:
    costs = layer_costs([PLAIN, PLAIN], NONE, TIMING)
    assert (costs.forward_s, costs.input_gradient_s, costs.weight_gradient_s) == (2, 4, 8)
    assert costs.recompute_s == 0


def test_what_is_recomputed_runs_forward_again_with_its_exchanges() -> None:
    other = dataclasses.replace(PLAIN, name="other", forward_exchanges=exchange(10))
    costs = layer_costs([PLAIN, other], frozenset({"other"}), TIMING)
    assert costs.recompute_s == 1 + 10
    assert costs.forward_s == 2 + 10


def test_a_blocking_exchange_adds_up_and_an_overlapping_one_hides() -> None:
    blocking = dataclasses.replace(PLAIN, backward_exchanges=exchange(5))
    assert layer_costs([blocking], NONE, TIMING).input_gradient_s == 2 + 5
    hidden = dataclasses.replace(PLAIN, backward_exchanges=exchange(5, overlaps=True))
    assert layer_costs([hidden], NONE, TIMING).input_gradient_s == 2
    longer = dataclasses.replace(PLAIN, backward_exchanges=exchange(9, overlaps=True))
    assert layer_costs([longer], NONE, TIMING).input_gradient_s == 2 + 9 - 6


def test_overlap_on_request_hides_tensor_parallel_exchanges() -> None:
    blocking = dataclasses.replace(PLAIN, forward_exchanges=exchange(0.5))
    timing = dataclasses.replace(TIMING, overlap_exchanges=True)
    assert layer_costs([blocking], NONE, TIMING).forward_s == 1.5
    assert layer_costs([blocking], NONE, timing).forward_s == 1


def test_a_slow_host_sets_the_pace() -> None:
    slow = dataclasses.replace(NO_OVERHEAD, host_s_per_kernel=3.0, backward_host_share=2.0)
    costs = layer_costs([PLAIN, PLAIN], NONE, dataclasses.replace(TIMING, framework=slow))
    assert costs.forward_s == 2 * 3
    # Two kernels each backward, launched at 6 s: 24 s, of which the weight gradients take 8.
    assert costs.input_gradient_s + costs.weight_gradient_s == 2 * 2 * 6


def test_what_does_not_hide_slows_the_kernels() -> None:
    half = dataclasses.replace(NO_OVERHEAD, tensor_hidden_share=0.5)
    hidden = dataclasses.replace(PLAIN, backward_exchanges=exchange(5, overlaps=True))
    costs = layer_costs([hidden], NONE, dataclasses.replace(TIMING, framework=half))
    assert costs.input_gradient_s == 2 + 2.5


@given(st.lists(st.tuples(*[st.floats(0, 10)] * 4, st.booleans()), max_size=5), st.booleans())
def test_the_causes_add_up(
    drawn: list[tuple[float, float, float, float, bool]], all_: bool
) -> None:
    ops = [
        Op(
            name=f"op {i}",
            forward=kernel(f),
            input_gradient=kernel(b),
            weight_gradient=kernel(w),
            forward_exchanges=exchange(e, overlaps),
            backward_exchanges=exchange(e, overlaps),
        )
        for i, (f, b, w, e, overlaps) in enumerate(drawn)
    ]
    recomputed = frozenset(op.name for op in ops) if all_ else NONE
    costs = layer_costs(ops, recomputed, TIMING)
    total = costs.forward_s + costs.input_gradient_s + costs.weight_gradient_s + costs.recompute_s
    assert sum(split_by_cause(ops, recomputed, TIMING).values()) == pytest.approx(total)


def expert_layer(exchanged_s: float) -> list[Op]:
    sent = (Exchange(group="expert", op="all_to_all", num_bytes=exchanged_s),)
    dispatch = Op(name="dispatch", forward_exchanges=sent, backward_exchanges=sent)
    experts = dataclasses.replace(PLAIN, name="experts", expert_parameters=1.0)
    return [dispatch, experts]


@pytest.mark.parametrize(
    ("exchanged_s", "forward_s", "backward_s"),
    # A forward runs beside 6 s of a backward, a backward beside 1 s of a forward.
    [(0.5, 1.1, 2.1), (5.0, 2.0, 6.2), (10.0, 6.2, 11.2)],
)
def test_exchanges_of_experts_run_beside_the_other_direction(
    exchanged_s: float, forward_s: float, backward_s: float
) -> None:
    most = dataclasses.replace(NO_OVERHEAD, overlapped_share=0.8)
    timing = dataclasses.replace(TIMING, framework=most, overlap_experts=True)
    costs = layer_costs(expert_layer(exchanged_s), NONE, timing)
    assert costs.forward_s == pytest.approx(forward_s)
    assert costs.input_gradient_s == pytest.approx(backward_s)
    blocking = layer_costs(expert_layer(exchanged_s), NONE, TIMING)
    assert blocking.forward_s == pytest.approx(1 + exchanged_s)
    assert layer_costs([PLAIN], NONE, timing) == layer_costs([PLAIN], NONE, TIMING)


def test_a_step_that_is_one_graph_waits_for_no_host() -> None:
    slow = dataclasses.replace(
        NO_OVERHEAD, host_s_per_kernel=100.0, host_s_per_exchange=100.0, expert_layer_s=100.0
    )
    timing = dataclasses.replace(TIMING, framework=slow)
    graph = dataclasses.replace(timing, graphs=True)
    assert layer_costs(expert_layer(3.0), NONE, graph) == layer_costs(
        expert_layer(3.0), NONE, TIMING
    )
    assert layer_costs(expert_layer(3.0), NONE, timing).forward_s > 100
