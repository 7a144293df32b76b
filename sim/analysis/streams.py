"""Kernels and collectives within the computations of a run, as separate streams.

The simulators time an action as a whole (`parplan.sim.layers.times`); here it is laid out as it was
summed: operation after operation, each one's kernels, its blocking exchanges after them, and its
overlapping ones beside them. Waiting for the host, gathered parameters and slowed kernels stretch
an action evenly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from parplan.hardware.kernels.kernel import Kernel
from parplan.hardware.network.cluster import Cluster
from parplan.sim.cost_model.stage_costs import ops_of, timing_of
from parplan.sim.cost_model.stages import stages_of
from parplan.sim.layers.blocks import Ops, recomputed_ops
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.times import MachineTimes, exposed_experts
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import parse_action
from parplan.sim.run import Event, Run
from parplan.sim.workload import Workload

STREAMS = {"tensor": "tensor-parallel", "context": "context-parallel", "expert": "expert-parallel"}


class StreamExchange(NamedTuple):
    """One exchange within an action: shares of the action's time."""

    stream: str
    name: str
    start: float
    end: float


MOST_EVENTS = 100_000
"""More than a timeline is legible with."""


def with_streams(run: Run, workload: Workload, cluster: Cluster, plan: Plan) -> Run:
    """The run with an event for each exchange of tensor, context and expert parallelism.

    Of more than `MOST_EVENTS`, those of a kind in one action are one event at its beginning.
    """
    timing = timing_of(workload, cluster, plan)
    pieces = {
        (stage, op): _pieces(plan, ops_of(workload, plan, layers), op, timing)
        for stage, layers in enumerate(stages_of(workload, plan))
        for op in "FBIW"
    }
    actions = [
        (event, parse_action(event.name))
        for event in run.events
        if event.stream == "compute" and not event.name.startswith("optimizer")
    ]
    if sum(len(pieces[action.stage, action.op]) for _, action in actions) > MOST_EVENTS:
        pieces = {key: _in_sum(own) for key, own in pieces.items()}
    events = list(run.events)
    for event, action in actions:
        whole_s = event.end_s - event.start_s
        events += [
            Event(
                event.rank,
                piece.stream,
                f"{event.name} {piece.name}",
                event.start_s + piece.start * whole_s,
                event.start_s + piece.end * whole_s,
            )
            for piece in pieces[action.stage, action.op]
        ]
    events.sort(key=lambda e: (e.rank, e.start_s, e.end_s, e.stream))
    return replace(run, events=tuple(events))


def _in_sum(pieces: Iterable[StreamExchange]) -> tuple[StreamExchange, ...]:
    """One piece for each stream, as long as all of its exchanges."""
    found: dict[str, list[float]] = {}
    for piece in pieces:
        found.setdefault(piece.stream, []).append(piece.end - piece.start)
    return tuple(
        StreamExchange(stream, f"{len(own)} exchanges as one", 0.0, min(1.0, sum(own)))
        for stream, own in found.items()
    )


def _pieces(
    plan: Plan, layers: Iterable[tuple[Ops, bool, int]], op: str, timing: MachineTimes
) -> tuple[StreamExchange, ...]:
    layout = _Layout(timing)
    kinds = list(layers)
    if op != "F":
        kinds.reverse()
    for ops, again, count in kinds:
        recomputed = recomputed_ops(plan, ops) if again else frozenset()
        for _ in range(count):
            layout.layer(ops, recomputed, op)
    return layout.shares()


class _Layout:
    """Lays operations out one after the other."""

    def __init__(self, timing: MachineTimes) -> None:
        self.timing = timing
        self.now_s = 0.0
        self.experts_free_s = 0.0
        """When an exchange of experts that runs beside kernels is over."""
        self.placed: list[tuple[str, str, float, float]] = []

    def layer(self, ops: Ops, recomputed: frozenset[str], op: str) -> None:
        if op == "F":
            self._forward(ops)
            return
        if op in "BI":
            self._forward([each for each in ops if each.name in recomputed])
        _, alone = exposed_experts(ops, self.timing)
        for each in reversed(ops):
            kernels: tuple[Kernel, ...] = each.input_gradient if op in "BI" else ()
            kernels += each.weight_gradient if op in "BW" else ()
            self._step(each, kernels, each.backward_exchanges if op in "BI" else (), alone)

    def _forward(self, ops: Sequence[Op]) -> None:
        alone, _ = exposed_experts(ops, self.timing)
        for op in ops:
            self._step(op, op.forward, op.forward_exchanges, alone)

    def _step(
        self, op: Op, kernels: Iterable[Kernel], exchanges: Iterable[Exchange], alone: float
    ) -> None:
        """`alone`: the share of an exchange of experts that what comes next waits for."""
        start_s = self.now_s
        self.now_s += sum(self.timing.kernel_s(kernel) for kernel in kernels)
        beside_s = start_s
        for exchange in exchanges:
            seconds = self.timing.exchange_s(exchange)
            name = f"{op.name} {exchange.op}"
            if exchange.overlaps:
                self.placed.append((exchange.group, name, beside_s, beside_s + seconds))
                beside_s += seconds
            elif exchange.group == "expert":
                begin_s = max(self.now_s, self.experts_free_s)
                self.experts_free_s = begin_s + seconds
                self.placed.append((exchange.group, name, begin_s, self.experts_free_s))
                self.now_s = beside_s = max(self.now_s, begin_s + alone * seconds)
            else:
                begin_s = max(self.now_s, beside_s)
                self.placed.append((exchange.group, name, begin_s, begin_s + seconds))
                self.now_s = beside_s = begin_s + seconds
        self.now_s = max(self.now_s, beside_s)

    def shares(self) -> tuple[StreamExchange, ...]:
        whole_s = max(self.now_s, self.experts_free_s) or 1.0
        return tuple(
            StreamExchange(STREAMS[group], name, start_s / whole_s, end_s / whole_s)
            for group, name, start_s, end_s in self.placed
        )
