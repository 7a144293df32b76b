"""Runs as Chrome trace JSON, which Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from collections.abc import Mapping
from typing import Any

from parplan.sim.run import Run

US_PER_S = 1e6


def chrome_trace(runs: Mapping[str, Run]) -> dict[str, Any]:
    """All runs in one trace: a process per run and rank, a thread per stream, times in µs."""
    trace: list[dict[str, Any]] = []
    process = 0
    for label, run in runs.items():
        for rank in range(run.num_ranks):
            trace.append(_name("process_name", f"{label}: rank {rank}", process + rank))
            streams = sorted({e.stream for e in run.events if e.rank == rank})
            for thread, stream in enumerate(streams):
                trace.append(_name("thread_name", stream, process + rank, thread))
                trace.extend(
                    {
                        "ph": "X",
                        "name": e.name,
                        "cat": stream,
                        "pid": process + rank,
                        "tid": thread,
                        "ts": e.start_s * US_PER_S,
                        "dur": (e.end_s - e.start_s) * US_PER_S,
                    }
                    for e in run.events
                    if e.rank == rank and e.stream == stream
                )
        process += run.num_ranks
    return {"traceEvents": trace, "displayTimeUnit": "ms"}


def _name(kind: str, name: str, process: int, thread: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
