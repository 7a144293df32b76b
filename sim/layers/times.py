"""Seconds of a layer: the sum over its operations, with what overlaps taken off."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from parplan.hardware.kernels import Kernel
from parplan.sim.costs import LayerCosts
from parplan.sim.layers.ops import Exchange, Op


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long kernels and exchanges take on one machine."""

    kernel_s: Callable[[Kernel], float]
    exchange_s: Callable[[Exchange], float]
    host_s_per_kernel: float = 0.0
    """What the host needs to launch one kernel, which counts where the device is faster."""
    overlap_exchanges: bool = False
    """Whether blocking tensor-parallel exchanges too run beside their neighbours' kernels."""


def layer_costs(ops: Sequence[Op], recomputed: frozenset[str], timing: Timing) -> LayerCosts:
    """Forward, input gradient, weight gradient and recomputation of one layer.

    Exchanges that overlap hide behind kernels of their own operation: forward behind its forward,
    backward behind its gradients. What remains of them counts as input gradient.
    """
    again = [op for op in ops if op.name in recomputed]
    return LayerCosts(
        forward_s=_forward_s(ops, timing),
        input_gradient_s=_input_gradient_s(ops, timing),
        weight_gradient_s=_kernels_s((k for op in ops for k in op.weight_gradient), timing),
        recompute_s=_forward_s(again, timing),
    )


def split_by_cause(
    ops: Sequence[Op], recomputed: frozenset[str], timing: Timing
) -> dict[str, float]:
    """The seconds of one forward and backward by cause: kernels, and exposed exchanges by group."""
    seconds = {"compute": 0.0, "recomputation": 0.0}
    for op in ops:
        kernels = (*op.forward, *op.input_gradient, *op.weight_gradient)
        seconds["compute"] += _kernels_s(kernels, timing)
        times = 2 if op.name in recomputed else 1
        if times == 2:
            seconds["recomputation"] += _kernels_s(op.forward, timing)
        for count, exchanges, hidden_s in (
            (times, op.forward_exchanges, _kernels_s(op.forward, timing)),
            (1, op.backward_exchanges, _backward_kernels_s(op, timing)),
        ):
            for group, exposed_s in _exposed(exchanges, hidden_s, timing).items():
                seconds[group] = seconds.get(group, 0.0) + count * exposed_s
    return seconds


def _forward_s(ops: Iterable[Op], timing: Timing) -> float:
    total, kernels = 0.0, 0
    for op in ops:
        own = _kernels_s(op.forward, timing)
        total += own + sum(_exposed(op.forward_exchanges, own, timing).values())
        kernels += len(op.forward)
    return max(total, kernels * timing.host_s_per_kernel)


def _input_gradient_s(ops: Iterable[Op], timing: Timing) -> float:
    total, kernels = 0.0, 0
    for op in ops:
        total += _kernels_s(op.input_gradient, timing)
        hidden_s = _backward_kernels_s(op, timing)
        total += sum(_exposed(op.backward_exchanges, hidden_s, timing).values())
        kernels += len(op.input_gradient)
    return max(total, kernels * timing.host_s_per_kernel)


def _backward_kernels_s(op: Op, timing: Timing) -> float:
    return _kernels_s((*op.input_gradient, *op.weight_gradient), timing)


def _kernels_s(kernels: Iterable[Kernel], timing: Timing) -> float:
    return sum(timing.kernel_s(kernel) for kernel in kernels)


def _exposed(exchanges: Iterable[Exchange], beside_s: float, timing: Timing) -> dict[str, float]:
    """Seconds by group that are not hidden behind `beside_s` of kernels."""
    blocking: dict[str, float] = {}
    overlapping: dict[str, float] = {}
    for exchange in exchanges:
        hides = exchange.overlaps or (timing.overlap_exchanges and exchange.group == "tensor")
        where = overlapping if hides else blocking
        where[exchange.group] = where.get(exchange.group, 0.0) + timing.exchange_s(exchange)
    for group, seconds in overlapping.items():
        left_s = max(0.0, seconds - beside_s)
        beside_s = max(0.0, beside_s - seconds)
        blocking[group] = blocking.get(group, 0.0) + left_s
    return blocking
