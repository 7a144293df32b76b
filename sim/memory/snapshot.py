"""Memory over a step as the snapshot of an allocator that torch's viewers read.

The form is that of `torch.cuda.memory._snapshot()` (torch 2.13, torch/cuda/memory.py): a list of
events for each device, here for each pipeline rank. https://pytorch.org/memory_viz draws it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from parplan.sim.memory.over_time import Floats, MemoryOverTime
from parplan.sim.run import Run

US_PER_S = 1e6
BASE = 0x7F00_0000_0000
"""The first address; none is used twice."""


class Allocation(NamedTuple):
    """Memory that is taken and given back as a whole."""

    label: str
    start: int
    """Number of the moment from which it is held."""
    end: int | None
    """From which it is not; None: it stays."""
    num_bytes: int


def memory_snapshot(ranks: Sequence[MemoryOverTime], run: Run) -> dict[str, Any]:
    """The snapshot, to be pickled. Device i is pipeline rank i, time 0 the beginning of the step.

    Pieces are what is taken or given back at one moment, the oldest of a kind first; each is named
    after the action that takes it. Their sum is that of `MemoryOverTime.total_bytes`, to a byte
    for each piece.
    """
    starts: list[dict[float, str]] = [{} for _ in ranks]
    for event in run.events:
        if event.stream == "compute":
            starts[event.rank].setdefault(event.start_s, event.name)
    devices = [_device(memory, starts[i]) for i, memory in enumerate(ranks)]
    return {
        "segments": [_segment(i, pieces) for i, (pieces, _) in enumerate(devices)],
        "device_traces": [trace for _, trace in devices],
        "allocator_settings": {},
        "external_annotations": [],
    }


def _device(
    memory: MemoryOverTime, starts: dict[float, str]
) -> tuple[list[tuple[int, Allocation]], list[dict[str, Any]]]:
    """The pieces that stay, with their addresses; and all events, in order."""
    taken = 1.0 + memory.fragmented_share
    state = memory.state
    pieces = [
        Allocation(name, 0, None, round(num_bytes))
        for name, num_bytes in (
            ("parameters", state.parameter_bytes),
            ("gradients", state.gradient_bytes),
            ("optimizer", state.optimizer_bytes),
        )
        if num_bytes
    ]
    labels = [starts.get(float(t), "") for t in memory.times_s]
    pieces += _pieces("activations", taken * memory.activation_bytes, labels)
    pieces += _pieces("messages", taken * memory.message_bytes, labels)
    addressed, address = [], BASE
    for piece in pieces:
        addressed.append((address, piece))
        address += piece.num_bytes
    events = [(p.start, 1, a, p) for a, p in addressed]
    events += [(p.end, 0, a, p) for a, p in addressed if p.end is not None]
    events.sort(key=lambda event: event[:3])
    trace = [
        entry
        for moment, allocates, address, piece in events
        for entry in _entries(memory.times_s, moment, bool(allocates), address, piece)
    ]
    return [(a, p) for a, p in addressed if p.end is None], trace


def _pieces(kind: str, levels: Floats, labels: Sequence[str]) -> Iterator[Allocation]:
    """Allocations that make the levels.

    A rise allocates; a fall frees the oldest, or the last where it was allocated at the moment
    before (working memory).
    """
    held: list[tuple[str, int, float]] = []
    before = 0.0
    for moment, level in enumerate(levels.tolist()):
        change = level - before
        before = level
        if change > 0:
            held.append((f"{labels[moment]} {kind}".strip(), moment, change))
        left = -change
        while left > 0.5 and held:
            place = len(held) - 1 if held[-1][1] == moment - 1 else 0
            label, start, size = held.pop(place)
            given = min(size, left)
            left -= given
            yield Allocation(label, start, moment, round(given))
            if size - given > 0.5:
                held.insert(place, (label, start, size - given))
    for label, start, size in held:
        yield Allocation(label, start, None, round(size))


def _entries(
    times_s: Floats, moment: int, allocates: bool, address: int, piece: Allocation
) -> Iterator[dict[str, Any]]:
    for action in ("alloc",) if allocates else ("free_requested", "free_completed"):
        yield {
            "action": action,
            "addr": address,
            "size": piece.num_bytes,
            "stream": 0,
            "time_us": round(float(times_s[moment]) * US_PER_S),
            "frames": _frames(piece),
        }


def _frames(piece: Allocation) -> list[dict[str, Any]]:
    return [{"filename": "parplan", "line": 0, "name": piece.label}]


def _segment(device: int, pieces: Sequence[tuple[int, Allocation]]) -> dict[str, Any]:
    """The permanent allocations, as one segment."""
    total = sum(piece.num_bytes for _, piece in pieces)
    first = min((address for address, _ in pieces), default=BASE)
    return {
        "device": device,
        "address": first,
        "total_size": total,
        "allocated_size": total,
        "active_size": total,
        "requested_size": total,
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": [
            {
                "address": address,
                "size": piece.num_bytes,
                "requested_size": piece.num_bytes,
                "state": "active_allocated",
                "frames": _frames(piece),
            }
            for address, piece in pieces
        ],
    }
