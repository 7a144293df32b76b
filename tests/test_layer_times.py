"""Seconds of a layer: sums, overlap, recomputation."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.hardware.kernels import Kernel, MemoryBound
from parplan.sim.framework import NO_OVERHEAD
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.times import Timing, layer_costs, split_by_cause

NONE = frozenset[str]()


def seconds(kernel: Kernel) -> float:
    return kernel.num_bytes


TIMING = Timing(kernel_s=seconds, exchange_s=lambda exchange: exchange.num_bytes)


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
    half = dataclasses.replace(NO_OVERHEAD, hidden_share=0.5)
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
