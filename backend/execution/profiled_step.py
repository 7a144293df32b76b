"""Exposed communication of one step, measured with torch's profiler.

A collective is exposed while no operation of the model runs beside it: on a CPU operations of
`aten` on the thread that computes, on a GPU kernels other than those of nccl. The profiler slows
a step by a few percent, so such a step is never among the timed ones.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from parplan.sim.plan import Plan

MARK = "parplan step"

NS_PER_S = 1e9

Span = tuple[float, float]


class TracedCollective(NamedTuple):
    """One collective or message."""

    stream: str
    """As the simulator names it: data-parallel, tensor-parallel or send."""
    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """One step of one process; times of `time.perf_counter`."""

    collectives: tuple[TracedCollective, ...]
    computing: tuple[Span, ...]
    """When operations ran, in order, without overlaps."""

    def exposed_s(self, start_s: float, end_s: float) -> dict[str, float]:
        """Seconds between two moments in which a collective ran and nothing beside it, by stream.

        Messages aside; where two streams did, the first one counts.
        """
        found, taken = {}, list(self.computing)
        for stream in ("tensor-parallel", "data-parallel"):
            spans = union(
                (max(c.start_s, start_s), min(c.end_s, end_s))
                for c in self.collectives
                if c.stream == stream
            )
            found[stream] = sum(b - a for a, b in without(spans, taken))
            taken = union([*taken, *spans])
        return found


def profiled(step: Callable[[], None], plan: Plan, device: torch.device) -> Profiled:
    """Run `step` of `plan` once under the profiler."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        start_s = time.perf_counter()
        with record_function(MARK):
            step()
    events: list[Any] = list(profiler.profiler.kineto_results.events())
    mark = next(event for event in events if event.name() == MARK)
    zero_s = start_s - mark.start_ns() / NS_PER_S

    def span(event: Any) -> Span:
        return zero_s + event.start_ns() / NS_PER_S, zero_s + event.end_ns() / NS_PER_S

    launches = {e.correlation_id(): e for e in events if e.name().startswith("c10d::")}

    def launched(event: Any) -> Span:
        """The launch time of a collective; of a kernel, that of the operation that launched it."""
        return span(launches.get(event.linked_correlation_id(), event) if on_gpu else event)

    functional = union(span(e) for e in events if e.name().startswith("_c10d_functional::"))
    found = _on_gpu(events) if on_gpu else _on_cpu(events, mark.start_thread_id())
    collectives, operations, waits = found
    return Profiled(
        collectives=tuple(
            TracedCollective(_stream(plan, e, launched(e), functional), e.name(), *span(e))
            for e in sorted(collectives, key=lambda e: e.start_ns())
        ),
        computing=tuple(without(union(map(span, operations)), union(map(span, waits)))),
    )


def _on_cpu(events: Sequence[Any], thread: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Collectives, operations, and waits, which are within some of the operations."""
    own = [e for e in events if e.start_thread_id() == thread]
    return (
        [e for e in events if e.name().startswith("gloo:")],
        [e for e in own if e.name().startswith("aten::")],
        [e for e in own if e.name() == "_c10d_functional::wait_tensor"],
    )


def _on_gpu(events: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    on_device = [e for e in events if str(e.device_type()).endswith("CUDA")]
    kernels = [e for e in on_device if not e.is_user_annotation()]
    collectives = [e for e in kernels if e.name().startswith("nccl")]
    names = {id(e) for e in collectives}
    return collectives, [e for e in kernels if id(e) not in names], []


def _stream(plan: Plan, event: Any, span: Span, functional: Sequence[Span]) -> str:
    """DTensor's collectives are functional ones, the others are of data parallelism."""
    name = event.name().lower()
    if "send" in name or "recv" in name:
        return "send"
    if plan.tensor_parallel == 1:
        return "data-parallel"
    if plan.replicas == 1:
        return "tensor-parallel"
    started = any(start_s <= span[0] <= end_s for start_s, end_s in functional)
    return "tensor-parallel" if started else "data-parallel"


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time without overlaps, in order."""
    found: list[Span] = []
    for start_s, end_s in sorted(spans):
        if end_s <= start_s:
            continue
        if found and start_s <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end_s)
        else:
            found.append((start_s, end_s))
    return found


def without(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of `spans` that no other span covers; both sorted and free of overlaps."""
    found: list[Span] = []
    place = 0
    for start_s, end_s in spans:
        while place < len(others) and others[place][1] <= start_s:
            place += 1
        now, at = start_s, place
        while at < len(others) and others[at][0] < end_s:
            if others[at][0] > now:
                found.append((now, others[at][0]))
            now = max(now, others[at][1])
            at += 1
        if now < end_s:
            found.append((now, end_s))
    return found
