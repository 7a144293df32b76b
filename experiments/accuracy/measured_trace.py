"""Traces of torch.profiler (Kineto's Chrome JSON) beside a predicted timeline, in one file."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parplan._files import read_regular
from parplan.errors import ParplanError, short
from parplan.sim.run import Run

US_PER_S = 1e6
STEP = "ProfilerStep#"
MAX_TRACE_BYTES = 2**29
"""Of a file; Python takes several times as much for what it holds."""

MAX_UNPACKED_BYTES = MAX_TRACE_BYTES
"""Of what a packed file holds."""

MOST_US = 1e18
"""Of times: 30,000 years."""

KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")

COMMUNICATION = ("nccl", "gloo", "allreduce", "all_reduce", "allgather", "reduce_scatter", "c10d")
"""Parts of names of kernels that move data between devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTrace:
    """One step of one rank."""

    rank: int
    num_ranks: int | None
    """Processes of the run; None where the trace does not say it."""
    step: str
    step_s: float
    events: tuple[Mapping[str, Any], ...]
    """Complete events that begin in the step, with times in µs from its beginning."""
    names: tuple[Mapping[str, Any], ...]
    """Metadata: names of its processes and threads."""
    compute_s: float
    """In which a kernel that is no communication runs; without kernels, in which an operator
    does."""
    communication_s: float
    """In which communication runs."""
    exposed_s: float
    """Of that, in which nothing else does."""


def read_trace(path: Path, step: int | None = None, number: int = 0) -> MeasuredTrace:
    """The step `step` of a trace, or its last with kernels, or operators where it has no kernels.

    What an accelerator does lags behind its launch: kernels are those of the step's window on the
    accelerator, the rest is that of its window on the host. `number`: the rank, where the trace
    does not say it. Raises `ParplanError` for what is not such a trace, and for one without steps,
    which `step()` of a profile with a schedule marks.
    """
    table = _read(path)
    events = _events(table, path)
    host, device = _windows(events, device=False), _windows(events, device=True)
    windows = host | device
    if not windows:
        raise ParplanError(
            f"{path}: no step is marked: give torch.profiler.profile a schedule, and call its "
            "step() in every step"
        )
    name = f"{STEP}{step}"
    if step is not None and name not in windows:
        raise ParplanError(f"{path}: no {name}; there are {', '.join(windows)}")
    tried = [name] if step is not None else list(windows)[::-1]
    steps = ((name, _inside(events, name, host, windows)) for name in tried)
    kinds = KERNELS if _has(events, KERNELS) else ("cpu_op",)
    name, inside = next(((name, found) for name, found in steps if _has(found, kinds)), ("", []))
    if not name:
        what = "kernel" if kinds is KERNELS else "operator"
        raise ParplanError(f"{path}: no {what} begins in {', '.join(tried)}")
    on_device = windows[name]
    distributed = table.get("distributedInfo")
    info = distributed if isinstance(distributed, Mapping) else {}
    rank, ranks = _number_of(info, "rank", number), _number_of(info, "world_size", None)
    busy = _busy(inside)
    return MeasuredTrace(
        rank=rank or 0,
        num_ranks=ranks or None,
        step=name,
        step_s=on_device[1] / US_PER_S,
        events=tuple(inside),
        names=tuple(e for e in events if e.get("ph") == "M"),
        compute_s=busy[0],
        communication_s=busy[1],
        exposed_s=busy[2],
    )


Window = tuple[float, float]
"""Beginning and length in µs."""


def _inside(
    events: Iterable[Mapping[str, Any]],
    name: str,
    host: Mapping[str, Window],
    windows: Mapping[str, Window],
) -> list[Mapping[str, Any]]:
    """The events of a step, with times from its beginning."""
    on_host, on_device = host.get(name, windows[name]), windows[name]
    zero_us = min(on_host[0], on_device[0])
    return [
        {**event, "ts": float(event["ts"]) - zero_us}
        for event in events
        if _begins_in(event, on_device if _is_on_device(event) else on_host)
    ]


def _has(events: Iterable[Mapping[str, Any]], kinds: tuple[str, ...]) -> bool:
    return any(event.get("cat") in kinds for event in events)


def of_the_plan(found: MeasuredTrace, num_devices: int, path: Path) -> MeasuredTrace:
    """The trace, of a run of as many processes as the plan has devices; else `ParplanError`."""
    if found.num_ranks is not None and found.num_ranks != num_devices:
        raise ParplanError(
            f"{path}: of a run of {found.num_ranks} processes; the plan has {num_devices} devices"
        )
    return found


def _windows(events: Iterable[Mapping[str, Any]], *, device: bool) -> dict[str, Window]:
    """The steps by name, as they are marked on the accelerator or on the host."""
    return {
        str(e["name"]): (float(e["ts"]), float(e["dur"]))
        for e in events
        if e.get("ph") == "X"
        and str(e.get("name", "")).startswith(STEP)
        and "dur" in e
        and (e.get("cat") == "gpu_user_annotation") == device
    }


def _is_on_device(event: Mapping[str, Any]) -> bool:
    return event.get("cat") in (*KERNELS, "gpu_user_annotation")


def _read(path: Path) -> dict[str, Any]:
    content = read_regular(path, MAX_TRACE_BYTES)
    try:
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(MAX_UNPACKED_BYTES + 1)
        if len(content) > MAX_UNPACKED_BYTES:
            raise ParplanError(f"{path}: larger than the {MAX_UNPACKED_BYTES} bytes that are read")
        # Names of kernels and their arguments: what is there twice, or is no number, is not used.
        table = json.loads(content)
    except (OSError, ValueError, EOFError, zlib.error, RecursionError) as error:
        raise ParplanError(f"{path}: not a Chrome trace: {error}") from None
    if not isinstance(table, dict) or not isinstance(table.get("traceEvents"), list):
        raise ParplanError(f"{path}: not a Chrome trace: it has no traceEvents")
    return table


def _events(table: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """The events; raises `ParplanError` for one that took place at no time."""
    events = [event for event in table["traceEvents"] if isinstance(event, Mapping)]
    for number, event in enumerate(events):
        for key in ("ts", "dur"):
            value = event.get(key)
            if event.get("ph") == "X" and value is not None and not _is_time(value):
                raise ParplanError(
                    f"{path}: event {number}: {key}: expected a number, got {short(value)}"
                )
    return events


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < MOST_US  # type: ignore[arg-type]


def _number_of(info: Mapping[str, Any], key: str, default: int | None) -> int | None:
    """A whole number of what a trace says of its run; what is none says nothing."""
    value = info.get(key)
    return value if type(value) is int and 0 <= value < MOST_US else default


def _begins_in(event: Mapping[str, Any], window: Window) -> bool:
    if event.get("ph") != "X" or "dur" not in event:
        return False
    return window[0] <= float(event["ts"]) < window[0] + window[1]


Spans = list[tuple[float, float]]


def _busy(events: Iterable[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Seconds of computation, of communication, and of communication alone."""
    events = list(events)
    kernels = [e for e in events if e.get("cat") in KERNELS]
    counted = kernels or [e for e in events if e.get("cat") == "cpu_op"]
    both: tuple[Spans, Spans] = ([], [])
    for event in counted:
        moves = any(part in str(event.get("name", "")).lower() for part in COMMUNICATION)
        start = float(event["ts"])
        both[moves].append((start, start + float(event["dur"])))
    compute, communication = (_merged(spans) for spans in both)
    union = _length(_merged([*compute, *communication]))
    return (
        _length(compute) / US_PER_S,
        _length(communication) / US_PER_S,
        (union - _length(compute)) / US_PER_S,
    )


def _merged(spans: Spans) -> Spans:
    found: Spans = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _length(spans: Spans) -> float:
    return sum(end - start for start, end in spans)


def with_measured(
    trace: Mapping[str, Any], predicted_ranks: int, measured: Sequence[MeasuredTrace]
) -> dict[str, Any]:
    """The trace of a prediction with measured steps below it, all from time 0."""
    events = list(trace["traceEvents"])
    process = predicted_ranks
    for found in measured:
        numbers: dict[object, int] = {}
        for event in found.events:
            if event.get("pid") not in numbers:
                numbers[event.get("pid")] = process + len(numbers)
        for own, number in numbers.items():
            label = f"measured: rank {found.rank}: {_process_name(found, own)}"
            events.append(
                {
                    "ph": "M",
                    "name": "process_name",
                    "pid": number,
                    "tid": 0,
                    "args": {"name": label},
                }
            )
        events += [
            {**event, "pid": numbers[event["pid"]]}
            for event in found.names
            if event.get("name") == "thread_name" and event.get("pid") in numbers
        ]
        events += [{**event, "pid": numbers[event.get("pid")]} for event in found.events]
        process += len(numbers)
    return {**trace, "traceEvents": events}


def _process_name(found: MeasuredTrace, process: object) -> str:
    for event in found.names:
        if event.get("name") == "process_labels" and event.get("pid") == process:
            return str(event.get("args", {}).get("labels", process))
    return str(process)


def comparison_rows(run: Run, measured: Sequence[MeasuredTrace]) -> list[dict[str, str]]:
    """Predicted and measured seconds of each trace.

    With the rank of the pipeline of that number, or the first where there are fewer.
    """
    rows = []
    for found in measured:
        rank = found.rank if found.rank < run.num_ranks else 0
        rows.append(
            {
                "rank": str(found.rank),
                "step": found.step,
                "predicted_step_s": f"{run.step_s:.6g}",
                "measured_step_s": f"{found.step_s:.6g}",
                "error_percent": f"{100 * (run.step_s / found.step_s - 1):.2f}",
                "predicted_compute_s": f"{run.busy_s(rank):.6g}",
                "measured_compute_s": f"{found.compute_s:.6g}",
                "measured_communication_s": f"{found.communication_s:.6g}",
                "measured_exposed_s": f"{found.exposed_s:.6g}",
            }
        )
    return rows
