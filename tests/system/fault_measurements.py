"""Measurements that always give the same, in place of those of `calibrate` and `execute`."""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from parplan._strict import build
from parplan.backend.calibration.grid import (
    LAYERS,
    RECOMPUTATIONS,
    CalibrationSettings,
    grid,
    micro_batches,
)
from parplan.backend.execution.result import Executed, Execution
from parplan.hardware.estimates.profile import Machine
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload

ROUNDS = 2
"""Of a sitting; a round takes a second."""

LAYERS_S = ROUNDS + 1.0
"""When the layers have been timed."""

MACHINE = Machine(
    device="a test",
    device_kind="cpu",
    num_processes=2,
    cores=2,
    threads_per_process=1,
    memory_bytes=8_000_000_000,
    backend="gloo",
    torch="2.13.0",
    python="3.11.0",
)


def sat(
    job: dict[str, Any], processes: int, *, report: Callable[[str], None], **_: object
) -> dict[str, Any]:
    """The rounds of a sitting that are not there yet."""
    settings = build(CalibrationSettings, job["settings"], "job")
    items, sizes = grid(settings, "cpu"), micro_batches(settings, "cpu")
    lines = []
    for number in range(round(job["used_s"]), ROUNDS):
        at = {"sitting": job["sitting"], "elapsed_s": number + 1.0}
        lines.append({"kind": "round", "seconds": [1e-6 * (n + 1) for n in range(len(items))]} | at)
        report(json.dumps(lines[-1]))
    if job["used_s"] >= LAYERS_S:
        return {"lines": lines}
    layers = [[1e-3, 2e-3]] * (len(sizes) * len(RECOMPUTATIONS) * len(LAYERS))
    lines.append(
        {"kind": "layers", "sitting": job["sitting"], "seconds": layers, "elapsed_s": LAYERS_S}
    )
    report(json.dumps(lines[-1]))
    return {"lines": lines}


@contextlib.contextmanager
def calibrating() -> Iterator[None]:
    """`calibrate` without processes, on one day."""
    path = "parplan.backend.calibration.calibrate"

    def here(model: Any, seq_len: int, processes: int | None, kind: Any) -> Any:
        return CalibrationSettings(model=model, seq_len=seq_len, processes=2, grid=kind), MACHINE

    day = mock.Mock()
    day.now.return_value = datetime(2026, 1, 1, tzinfo=UTC)
    with (
        mock.patch(f"{path}.launch", sat),
        mock.patch(f"{path}.datetime", day),
        mock.patch("parplan.experiments.commands.run.calibrate.settings_here", here),
        mock.patch("parplan._journal.SYNC_EVERY_S", 0.0),
    ):
        yield


def measured(workload: Workload, processes: int, plans: list[Plan], **_: object) -> Execution:
    """As if every plan had taken what is predicted of it."""
    cluster = cluster_preset(f"{processes}xh100")
    executed = []
    for plan in plans:
        compiled = compile_plan(workload, cluster, plan)
        run = predict(compiled)
        memory = tuple(rank.total_bytes for rank in compiled.memory)
        executed.append(
            Executed(
                plan=plan,
                predicted=run,
                measured=run,
                profiled=run,
                predicted_exposed_s={},
                measured_exposed_s={},
                samples_s=(run.step_s,) * 3,
                loss_difference=0.0,
                predicted_bytes=memory,
                measured_bytes=memory * (processes // len(memory)),
            )
        )
    found = Execution(
        workload=workload,
        num_processes=processes,
        calibration=[],
        candidates=(),
        executed=tuple(executed),
    )
    # As what workers leave is read.
    return Execution.from_json(json.loads(json.dumps(found.to_json())))


@contextlib.contextmanager
def executing() -> Iterator[None]:
    """`execute` without processes; temporary files lie in the folder where it runs."""
    with (
        mock.patch("parplan.experiments.commands.run.execute.execute", measured),
        mock.patch("tempfile.tempdir", str(Path.cwd())),
    ):
        yield
