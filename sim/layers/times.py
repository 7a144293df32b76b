"""Seconds of a layer: the sum over its operations, with what overlaps taken off."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from parplan.hardware.kernels.kernel import Kernel
from parplan.sim.costs import LayerCosts
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.software.framework import NO_OVERHEAD, Framework


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTimes:
    """Times of kernels and exchanges on one machine."""

    kernel_s: Callable[[Kernel], float]
    exchange_s: Callable[[Exchange], float]
    framework: Framework = NO_OVERHEAD
    blocking_launches: bool = False
    """Whether host and device take turns."""
    overlap_exchanges: bool = False
    """Whether blocking tensor-parallel exchanges too run beside their neighbours' kernels."""
    overlap_experts: bool = False
    """Whether exchanges of experts run beside kernels of another micro-batch."""
    graphs: bool = False
    """Whether layers or whole steps are graphs of kernels, so that the host is never late."""


def layer_costs(ops: Sequence[Op], recomputed: frozenset[str], timing: MachineTimes) -> LayerCosts:
    """Forward, input gradient, weight gradient and recomputation of one layer.

    Exchanges that overlap hide behind kernels of their own operation: forward behind its forward,
    backward behind its gradients. What remains of them counts as input gradient.
    """
    return LayerCosts(
        forward_s=_forward_s(ops, timing),
        input_gradient_s=_input_gradient_s(ops, timing),
        weight_gradient_s=_kernels_s((k for op in ops for k in op.weight_gradient), timing),
        recompute_s=recompute_s(ops, recomputed, timing),
    )


def recompute_s(ops: Sequence[Op], recomputed: frozenset[str], timing: MachineTimes) -> float:
    """Seconds of the operations with these names, run again before their gradients."""
    return _forward_s([op for op in ops if op.name in recomputed], timing)


def exposed_experts(ops: Sequence[Op], timing: MachineTimes) -> tuple[float, float]:
    """The shares of a layer's exchanges of experts that nothing hides, of forward and backward.

    Where they overlap, each runs beside the kernels of another micro-batch that goes the other way
    through a like layer: what the first and last micro-batches of a step do alone is neglected.
    """
    if not timing.overlap_experts:
        return 1.0, 1.0
    forward_s = _kernels_s((k for op in ops for k in op.forward), timing)
    backward_s = sum(_backward_kernels_s(op, timing) for op in ops)
    return (
        _alone((e for op in ops for e in op.forward_exchanges), backward_s, timing),
        _alone((e for op in ops for e in op.backward_exchanges), forward_s, timing),
    )


def _alone(exchanges: Iterable[Exchange], beside_s: float, timing: MachineTimes) -> float:
    """The share of those of experts that `beside_s` of kernels do not hide."""
    seconds = sum(timing.exchange_s(e) for e in exchanges if e.group == "expert")
    hidden_s = timing.framework.overlapped_share * min(seconds, beside_s)
    return 1.0 - hidden_s / seconds if seconds else 1.0


def split_by_cause(
    ops: Sequence[Op],
    recomputed: frozenset[str],
    timing: MachineTimes,
    experts: tuple[float, float] = (1.0, 1.0),
) -> dict[str, float]:
    """The seconds of one forward and backward by cause: kernels, and exposed exchanges by group.

    `experts`: the shares of `exposed_experts`.
    """
    seconds = {"compute": 0.0, "recomputation": 0.0}
    for op in ops:
        kernels = (*op.forward, *op.input_gradient, *op.weight_gradient)
        seconds["compute"] += _kernels_s(kernels, timing)
        times = 2 if op.name in recomputed else 1
        if times == 2:
            seconds["recomputation"] += _kernels_s(op.forward, timing)
        for count, exchanges, hidden_s, alone in (
            (times, op.forward_exchanges, _kernels_s(op.forward, timing), experts[0]),
            (1, op.backward_exchanges, _backward_kernels_s(op, timing), experts[1]),
        ):
            for group, exposed_s in _exposed(exchanges, hidden_s, timing, alone).items():
                seconds[group] = seconds.get(group, 0.0) + count * exposed_s
    return seconds


def _forward_s(ops: Sequence[Op], timing: MachineTimes) -> float:
    device_s, (alone, _) = 0.0, exposed_experts(ops, timing)
    for op in ops:
        own = _kernels_s(op.forward, timing)
        device_s += own + sum(_exposed(op.forward_exchanges, own, timing, alone).values())
    kernels = sum(len(op.forward) for op in ops)
    device_s += experts_s(ops, timing)
    host_s = _host_s(kernels, [op.forward_exchanges for op in ops], timing)
    return device_s + host_s if timing.blocking_launches else max(device_s, host_s)


def _input_gradient_s(ops: Sequence[Op], timing: MachineTimes) -> float:
    """With all of a backward's exchanges; the host launches weight gradients in between."""
    device_s, (_, alone) = 0.0, exposed_experts(ops, timing)
    for op in ops:
        device_s += _kernels_s(op.input_gradient, timing)
        hidden_s = _backward_kernels_s(op, timing)
        device_s += sum(_exposed(op.backward_exchanges, hidden_s, timing, alone).values())
    kernels = sum(len(op.input_gradient) + len(op.weight_gradient) for op in ops)
    share = timing.framework.backward_host_share
    host_s = share * _host_s(kernels, [op.backward_exchanges for op in ops], timing)
    weights_s = _kernels_s((k for op in ops for k in op.weight_gradient), timing)
    device_s += experts_s(ops, timing)
    return device_s + host_s if timing.blocking_launches else max(device_s, host_s - weights_s)


def experts_s(ops: Iterable[Op], timing: MachineTimes) -> float:
    """Time that a layer with experts waits for the host in each direction."""
    waits = not timing.graphs and any(op.expert_parameters for op in ops)
    return timing.framework.expert_layer_s if waits else 0.0


def _host_s(kernels: int, exchanges: Iterable[Sequence[Exchange]], timing: MachineTimes) -> float:
    """Host time to launch the given kernels and exchanges."""
    if timing.graphs:
        return 0.0
    each = timing.framework
    count = sum(map(len, exchanges))
    return kernels * each.host_s_per_kernel + count * each.host_s_per_exchange


def _backward_kernels_s(op: Op, timing: MachineTimes) -> float:
    return _kernels_s((*op.input_gradient, *op.weight_gradient), timing)


def _kernels_s(kernels: Iterable[Kernel], timing: MachineTimes) -> float:
    return sum(timing.kernel_s(kernel) for kernel in kernels)


def _exposed(
    exchanges: Iterable[Exchange], beside_s: float, timing: MachineTimes, experts: float
) -> dict[str, float]:
    """Seconds by group that are not hidden behind `beside_s` of kernels.

    experts: the share of the groups of experts.
    """
    blocking: dict[str, float] = {}
    overlapping: dict[str, float] = {}
    for exchange in exchanges:
        hides = exchange.overlaps or (timing.overlap_exchanges and exchange.group == "tensor")
        where = overlapping if hides else blocking
        alone = experts if exchange.group == "expert" else 1.0
        seconds = alone * timing.exchange_s(exchange)
        where[exchange.group] = where.get(exchange.group, 0.0) + seconds
    each = timing.framework
    for group, seconds in overlapping.items():
        share = each.tensor_hidden_share if group == "tensor" else each.hidden_share
        if timing.overlap_exchanges:
            share = each.overlapped_share
        hidden_s = share * min(seconds, beside_s)
        beside_s -= hidden_s
        left_s = seconds - hidden_s
        blocking[group] = blocking.get(group, 0.0) + left_s
    return blocking
