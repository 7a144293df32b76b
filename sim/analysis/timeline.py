"""Runs as Chrome trace JSON, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process per run and rank has a track per stream, with names in words and the parts of each name
as arguments. Messages are joined to the action that waits for them by arrows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parplan.sim.analysis.event_words import EventWords, event_words
from parplan.sim.analysis.timeline_facts import TimelineFacts
from parplan.sim.memory.over_time import MemoryOverTime
from parplan.sim.memory.peak import GB
from parplan.sim.run import Event, Run

US_PER_S = 1e6

TRACKS = (
    *("compute", "tensor-parallel", "context-parallel", "expert-parallel", "send"),
    "data-parallel",
)
"""The order of the tracks of a rank; others come last."""

Entry = dict[str, Any]


def chrome_trace(runs: Mapping[str, Run], facts: TimelineFacts | None = None) -> Entry:
    """All runs in one trace, times in µs. `facts`: about the actions of all of them."""
    trace: list[Entry] = []
    process = 0
    for label, run in runs.items():
        trace += _run(label, run, process, facts)
        if facts is not None:
            for memory in facts.memory:
                trace += _counters(memory, process + memory.rank)
        process += run.num_ranks
    return {"traceEvents": trace, "displayTimeUnit": "ms"}


def _run(label: str, run: Run, process: int, facts: TimelineFacts | None) -> Iterator[Entry]:
    events: list[dict[str, list[Event]]] = [{} for _ in range(run.num_ranks)]
    for event in run.events:
        events[event.rank].setdefault(event.stream, []).append(event)
    threads = [_threads(own) for own in events]
    for rank, own in enumerate(events):
        place = process + rank
        yield _named("process_name", f"{label}: rank {rank}", place)
        for stream, thread in threads[rank].items():
            yield _named("thread_name", stream, place, thread)
            for event in own[stream]:
                words = event_words(event)
                entry: Entry = {"ph": "X", "name": words.name, "cat": stream}
                entry |= {"pid": place, "tid": thread, "ts": _us(event.start_s)}
                entry["dur"] = _us(event.end_s - event.start_s)
                yield entry | {"args": _arguments(event, words, facts)}
    yield from _arrows(events, threads, process)


def _threads(streams: Iterable[str]) -> dict[str, int]:
    """The numbers of the tracks, in their order."""
    order = sorted(streams, key=lambda s: (TRACKS.index(s) if s in TRACKS else len(TRACKS), s))
    return {stream: number for number, stream in enumerate(order)}


def _arguments(event: Event, words: EventWords, facts: TimelineFacts | None) -> Entry:
    found: Entry = {"action": event.name} if words.name != event.name else {}
    if words.micro_batch is not None:
        found["micro-batch"] = words.micro_batch
    if words.stage is not None:
        found["stage"] = words.stage
    if words.to_stage is not None:
        found["to stage"] = words.to_stage
    return found if facts is None else {**found, **facts.of(event, words)}


def _arrows(
    events: Sequence[Mapping[str, Sequence[Event]]],
    threads: Sequence[Mapping[str, int]],
    process: int,
) -> Iterator[Entry]:
    """From each message to the action that waits for it."""
    actions = {}
    for rank, own in enumerate(events):
        for event in own.get("compute", ()):
            words = event_words(event)
            if words.op:
                actions[words.stage, words.op, words.micro_batch] = rank, event
    number = 0
    for rank, own in enumerate(events):
        for event in own.get("send", ()):
            words = event_words(event)
            ops = ("F",) if words.op == "F" else ("B", "I")
            keys = ((words.to_stage, op, words.micro_batch) for op in ops)
            found = next((actions[key] for key in keys if key in actions), None)
            if found is None:
                continue
            number += 1
            to_rank, waiting = found
            thread = threads[rank]["send"], threads[to_rank]["compute"]
            arrow = {"cat": "message", "name": "message", "id": process * 10**6 + number}
            begin = {"ph": "s", "pid": process + rank, "tid": thread[0], "ts": _us(event.start_s)}
            end = {"ph": "f", "bp": "e", "pid": process + to_rank, "tid": thread[1]}
            yield arrow | begin
            yield arrow | end | {"ts": _us(waiting.start_s)}


def _counters(memory: MemoryOverTime, process: int) -> Iterator[Entry]:
    """Memory of a rank in GB, by what it holds."""
    state_gb = _gb(memory.state.state_bytes)
    waste = 1.0 + memory.fragmented_share
    for time_s, activations, messages in zip(
        memory.times_s.tolist(),
        (waste * memory.activation_bytes).tolist(),
        (waste * memory.message_bytes).tolist(),
        strict=True,
    ):
        yield {
            "ph": "C",
            "name": "memory [GB]",
            "pid": process,
            "ts": _us(time_s),
            "args": {
                "parameters, gradients, optimizer": state_gb,
                "activations": _gb(activations),
                "messages": _gb(messages),
            },
        }


def _named(kind: str, name: str, process: int, thread: int = 0) -> Entry:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _us(seconds: float) -> float:
    """Microseconds to the picosecond, as the simulators count."""
    return round(seconds * US_PER_S, 6)


def _gb(num_bytes: float) -> float:
    return round(num_bytes / GB, 4)
