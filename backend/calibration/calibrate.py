"""Measuring this machine: sittings (starts of the processes) of rounds over all configurations.

The rounds of all sittings together give each median and its noise: a new start of the processes
places memory anew, and the machine drifts, which repetitions in a row would not show.
"""

import dataclasses
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parplan.backend.calibration.grid import (
    LAYERS,
    RECOMPUTATIONS,
    SITTINGS,
    CalibrationSettings,
    OptimizerStep,
    grid,
    micro_batches,
)
from parplan.backend.calibration.partial_file import Line, PartialFile, read_partial
from parplan.backend.workers.launch import launch
from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import (
    CollectiveCall,
    Machine,
    MeasuredCollective,
    MeasuredKernel,
    MeasuredLayer,
    MeasuredOptimizer,
    Profile,
    Timing,
)
from parplan.sim.models.model import Model

TIMEOUT_S = 1800.0
"""Beyond a sitting's share of the budget."""

Progress = Callable[[str, int, int], None]


def settings_here(
    model: Model, seq_len: int, processes: int | None, grid: str
) -> tuple[CalibrationSettings, Machine]:
    """Return the default measurements for this machine: one process per GPU, or two on a CPU.

    Raises `ParplanError` without torch and for what this machine can't do.
    """
    if importlib.util.find_spec("torch") is None:
        raise ParplanError("measuring needs torch: pip install 'parplan[torch]'")
    from parplan.backend.calibration.this_machine import default_processes, machine_here

    count = default_processes() if processes is None else processes
    machine = machine_here(count)
    # One block stands for all; a tied projection costs the same.
    shape = dataclasses.replace(model, num_layers=1, tied_embeddings=False)
    settings = CalibrationSettings(
        model=shape,
        seq_len=seq_len,
        processes=count,
        grid=grid,  # type: ignore[arg-type]
    )
    return settings, machine


def calibrate(
    settings: CalibrationSettings,
    machine: Machine,
    path: Path,
    *,
    budget_s: float = 120.0,
    resume: bool = False,
    progress: Progress = lambda what, done, of: None,
    note: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Measure, and return the profile that is meant for `path` (it is not written).

    budget_s: how long it may take in all; everything is measured a few times anyway. What is found
    is kept beside `path` until then; `resume` goes on from there. Raises `ParplanError` for what
    can't be resumed and `RunFailedError` when a process dies.
    """
    if not budget_s > 0:
        raise ParplanError(f"budget: must be positive, got {budget_s:g} s")
    partial = PartialFile(path, machine, settings)
    partial.begin(read_partial(partial.path, machine, settings) if resume else [])
    for sitting in range(SITTINGS[settings.grid]):
        own = [line for line in partial.lines if line["sitting"] == sitting]
        if not any(line["kind"] == "done" for line in own):
            _sit(sitting, own, settings, partial, budget_s, progress, note)
    return profile_of(partial.lines, settings, machine)


def _sit(
    sitting: int,
    own: Sequence[Line],
    settings: CalibrationSettings,
    partial: PartialFile,
    budget_s: float,
    progress: Progress,
    note: Callable[[str], None],
) -> None:
    """One start of the processes; `own` lines of this sitting are there already."""
    slice_s = budget_s / SITTINGS[settings.grid]
    used_s = max((line["elapsed_s"] for line in own), default=0.0)
    before = list(partial.lines)

    def report(text: str) -> None:
        if not text.startswith("{"):  # Said about the workers, or by one of them.
            note(text)
            return
        line = json.loads(text)
        done_s = sitting * slice_s + min(line["elapsed_s"], slice_s)
        progress("seconds of measuring", round(done_s), round(budget_s))
        if line["kind"] != "progress":
            partial.add(line)

    start_s = time.monotonic()  # The same in all processes of a machine.
    job = {
        "work": "calibrate",
        "settings": dataclasses.asdict(settings),
        "threads": partial.machine.threads_per_process,
        "sitting": sitting,
        "slice_s": slice_s,
        "used_s": used_s,
        "start": start_s,
    }
    found = launch(job, settings.processes, timeout_s=slice_s + TIMEOUT_S, report=report)
    done = {"sitting": sitting, "kind": "done", "elapsed_s": used_s + time.monotonic() - start_s}
    partial.begin([*before, *found["lines"], done])


def profile_of(lines: Sequence[Line], settings: CalibrationSettings, machine: Machine) -> Profile:
    """The medians and noise of all samples; what could not be measured is left out."""
    items = grid(settings, machine.device_kind)
    rounds = [line for line in lines if line["kind"] == "round"]
    kernels: list[MeasuredKernel] = []
    collectives: list[MeasuredCollective] = []
    optimizer = None
    for i, item in enumerate(items):
        timing = timing_of([(r["sitting"], r["seconds"][i]) for r in rounds])
        if timing is None:
            continue
        if isinstance(item, CollectiveCall):
            collectives.append(MeasuredCollective(collective=item, timing=timing))
        elif isinstance(item, OptimizerStep):
            optimizer = MeasuredOptimizer(num_parameters=item.num_parameters, timing=timing)
        else:
            kernels.append(MeasuredKernel(kernel=item, timing=timing))
    return Profile(
        machine=machine,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        kernels=tuple(kernels),
        collectives=tuple(collectives),
        layers=tuple(_layers(lines, settings, machine)),
        optimizer=optimizer,
    )


def is_whole(profile: Profile, settings: CalibrationSettings, machine: Machine) -> bool:
    """Whether a profile is what these measurements give on this machine.

    A data type of which it has nothing counts as one that the machine cannot compute with.
    """
    jobs = {(settings.model.name, settings.seq_len)}
    if profile.machine != machine or {(m.model, m.seq_len) for m in profile.layers} != jobs:
        return False
    found = {m.kernel for m in profile.kernels} | {m.collective for m in profile.collectives}
    dtypes = {getattr(item, "dtype", None) for item in found} | {None}
    asked = {
        item
        for item in grid(settings, machine.device_kind)
        if not isinstance(item, OptimizerStep) and getattr(item, "dtype", None) in dtypes
    }
    return found == asked


def _layers(
    lines: Sequence[Line], settings: CalibrationSettings, machine: Machine
) -> list[MeasuredLayer]:
    passes = [line for line in lines if line["kind"] == "layers"]
    keys = [
        (size, level, layer)
        for size in micro_batches(settings, machine.device_kind)
        for level in RECOMPUTATIONS
        for layer in LAYERS
    ]
    found = []
    for i, (size, level, layer) in enumerate(keys):
        forward, backward = (
            timing_of([(line["sitting"], line["seconds"][i][k]) for line in passes]) for k in (0, 1)
        )
        if forward is None or backward is None:
            continue
        found.append(
            MeasuredLayer(
                model=settings.model.name,
                layer=layer,
                micro_batch=size,
                seq_len=settings.seq_len,
                precision="fp32" if machine.device_kind == "cpu" else "bf16",
                recomputation=level,
                forward_s=forward.seconds,
                spread_forward_s=forward.spread_s,
                backward_s=backward.seconds,
                spread_backward_s=backward.spread_s,
                samples=forward.samples,
            )
        )
    return found


def timing_of(samples: Sequence[tuple[int, Any]]) -> Timing | None:
    """Median and noise of (sitting, seconds or None); None without any."""
    of_sittings: dict[int, list[float]] = {}
    for sitting, seconds in samples:
        if seconds is not None:
            of_sittings.setdefault(sitting, []).append(seconds)
    if not of_sittings:
        return None
    everything = [seconds for values in of_sittings.values() for seconds in values]
    medians = [statistics.median(values) for values in of_sittings.values()]
    return Timing(
        seconds=statistics.median(everything),
        spread_s=max(_half_middle(everything), (max(medians) - min(medians)) / 2),
        samples=len(everything),
    )


def _half_middle(values: Sequence[float]) -> float:
    """Half the interquartile range."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2
