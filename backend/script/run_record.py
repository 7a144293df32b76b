"""What a training script's plan was predicted to take, and what its steps take.

The first steps are recorded; then the log tells the median beside the prediction, and a folder
holds what `parplan compare` reads. Later steps are watched for drift.
"""

import csv
import io
import json
import logging
import os
import statistics
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from parplan._files import remove_file, write_whole
from parplan.backend.execution.result import Executed, Execution
from parplan.backend.execution.trial_run import Sample, one_run, step_seconds
from parplan.backend.planning.search import Prediction
from parplan.backend.runtime.pipeline import Planned
from parplan.backend.runtime.recorded_stage import Moment
from parplan.backend.script.differences import load_note
from parplan.backend.script.gradient_checks import check_gradients
from parplan.backend.script.throughput import Throughput, every_from_environment
from parplan.backend.script.words import bytes_in_words, plan_in_words
from parplan.backend.workers.processes import is_first, num_processes
from parplan.errors import ParplanError
from parplan.sim.analysis.timeline import chrome_trace
from parplan.sim.plan import Plan

LOG = logging.getLogger("parplan")

NAME = "PARPLAN_REPORT"
"""Folder of the report; 0 for none."""

DEFAULT_FOLDER = "parplan-run"

WARM_UP = 2
STEPS = 10

WINDOW = 20
DRIFT = 1.25
"""A median of so many steps above so many times the recorded one is drift."""


def report_folder(environment: Mapping[str, str], here: Path) -> Path | None:
    """Where the report goes; None where none is wanted."""
    name = environment.get(NAME, DEFAULT_FOLDER)
    return None if name in ("", "0") else here / name


class RunRecord:
    """The steps of one script under a plan; every process has one."""

    def __init__(
        self,
        step: Planned,
        prediction: Prediction | None,
        folder: Path | None,
        flops_each: float | None = None,
    ) -> None:
        """`prediction`: None on other processes than the first, and for a plan that was given.

        flops_each: of a step, for each value of its first input; None where they are not known.
        """
        self.step, self.prediction, self.folder = step, prediction, folder
        self.samples: list[Sample] = []
        self.moments: list[tuple[str, Moment, Moment]] = []
        self.parts: dict[str, float] = {}
        self.drift = Drift()
        self.items = 0
        self.throughput = Throughput(
            every_from_environment(), step.device, flops_each, step.plan.num_devices
        )
        self.start_s = self.optimizer_s = 0.0
        self.forwards = 0
        self.done = False
        self.losses: list[float] = []
        step.clock.mark = lambda kind, stage, number, start, end: self.moments.append(
            (f"{stage}{kind}{number}" if number >= 0 else f"{kind} {stage}", start, end)
        )
        register_optimizer_step_pre_hook(_weakly(self._before_optimizer))
        register_optimizer_step_post_hook(_weakly(self._after_optimizer))
        if is_first():
            self._tell_plan()

    def begin(self, waited_s: float, batch: torch.Tensor, parts: int = 1) -> None:
        """Begin a forward with gradients, after so long a wait for the other processes.

        `batch`: the first tensor that this process is given, one of so many parts of the global
        batch.
        """
        self.items = parts * self.throughput.items_of(batch)
        if not self.done and len(self.samples) >= WARM_UP + STEPS:
            self._finish()
        self.forwards += 1
        if self.forwards == 1:
            self.moments.clear()
            self.start_s = self._now()
            self.parts = {"waiting for another process, which is slow": waited_s}
            self.step.clock.begin()

    def computed(self) -> None:
        """The forward and the backward of the plan have ended."""
        self.parts["computing and sending"] = time.perf_counter() - self.start_s

    def _before_optimizer(self, optimizer: Optimizer, *_: Any) -> None:
        if self.forwards and self.step.is_of(optimizer):
            check_gradients(self.step, self.forwards)
            self.optimizer_s = self._now()

    def _after_optimizer(self, optimizer: Optimizer, *_: Any) -> None:
        if not self.forwards or not self.step.is_of(optimizer):
            return
        whole, self.forwards = self.forwards == 1, 0
        end_s = self._now()
        self.parts["the optimizer"] = end_s - self.optimizer_s
        if text := self.throughput.step(end_s, self.items):
            self._say(text)
        if not whole:  # accumulated over several forwards, which nobody has predicted
            return
        if self.done:
            if text := self.drift.of(end_s - self.start_s, self.parts):
                self._say(text)
            return
        stage, seconds = min(self.step.modules), self.step.clock.seconds
        marks = [(name, seconds(start), seconds(end)) for name, start, end in self.moments]
        marks.append((f"optimizer {stage}", self.optimizer_s, end_s))
        self.samples.append(Sample(self.start_s, end_s, 0.0, marks))
        self.drift.learn(end_s - self.start_s, self.parts)

    def _now(self) -> float:
        if self.step.device.type == "cuda" and not self.done:
            torch.cuda.synchronize(self.step.device)
        return time.perf_counter()

    def _finish(self) -> None:
        """Bring the samples of all processes together; the first one tells and writes."""
        self.done = True
        self.step.clock.mark = None
        steps = self._of_all(self.samples[WARM_UP:])
        on_gpu = self.step.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.step.device) if on_gpu else None
        peaks = self._of_all([peak])[0]
        if not is_first():
            return
        seconds = [step_seconds(step) for step in steps]
        median = statistics.median_low(seconds)
        plan = self.step.plan
        measured = one_run(plan, steps[seconds.index(median)], median)
        executed = Executed(
            plan=plan,
            predicted=self.prediction.run if self.prediction else measured,
            measured=measured,
            profiled=measured,
            predicted_exposed_s={},
            measured_exposed_s={},
            samples_s=tuple(seconds),
            loss_difference=None,
            predicted_bytes=self.prediction.memory_bytes if self.prediction else (),
            measured_bytes=tuple(p for p in peaks if p is not None),
        )
        self._tell_measured(executed)
        self._keep(lambda folder: _write(folder, executed, self.prediction is not None))

    def _of_all(self, own: list[Any]) -> list[Any]:
        everyone: list[list[Any]] = [own]
        if num_processes() > 1:
            everyone = [[] for _ in range(num_processes())]
            dist.all_gather_object(everyone, own)
        return list(zip(*everyone, strict=False))

    def _tell_plan(self) -> None:
        plan = self.step.plan
        self._say(f"plan: {plan_in_words(plan)}")
        found = self.prediction
        if found is None:
            self._say("predicted: nothing, because the plan was not searched")
        else:
            step_s = found.run.step_s
            self._say(
                f"predicted: {step_s:.4f} s a step, {bytes_in_words(max(found.memory_bytes))} on "
                f"the fullest process{_gains(found, step_s)}"
            )
        self._keep(lambda folder: _write_plan(folder, plan))

    def _tell_measured(self, executed: Executed) -> None:
        step_s = executed.measured.step_s
        text = (
            f"measured: {step_s:.4f} s a step, the median of {STEPS} (spread {executed.spread:.1%})"
        )
        if self.prediction is not None:
            text += f"; predicted {executed.predicted.step_s:.4f} s, error {executed.error:+.1%}"
            text += _gains(self.prediction, step_s)
        if self.step.device.type != "cuda":
            text += load_note(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        text += f"; {self.throughput.rate(self.items, step_s)}"
        if executed.measured_bytes:
            text += f"; memory {bytes_in_words(max(executed.measured_bytes))}"
        self._say(text)

    def _keep(self, write: Callable[[Path], None]) -> None:
        """Write into the folder; training goes on where that fails."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            write(self.folder)
        except (OSError, ParplanError) as error:
            self._say(f"no report in {self.folder}: {error}")
            self.folder = None

    @staticmethod
    def _say(text: str) -> None:
        if is_first():
            LOG.info(text)


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """The method for as long as its object lives, which a global hook must not prolong."""
    known = weakref.WeakMethod(method)

    def call(*given: Any) -> None:
        if (living := known()) is not None:
            living(*given)

    return call


class Drift:
    """Whether steps have become slower for long, and what of them."""

    def __init__(self) -> None:
        self.known: list[tuple[float, dict[str, float]]] = []
        self.last: deque[tuple[float, dict[str, float]]] = deque(maxlen=WINDOW)
        self.told = False

    def learn(self, step_s: float, parts: Mapping[str, float]) -> None:
        """A step as it should be."""
        self.known.append((step_s, dict(parts)))

    def of(self, step_s: float, parts: Mapping[str, float]) -> str:
        """What to say after another step; empty nearly always."""
        self.last.append((step_s, dict(parts)))
        if self.told or len(self.last) < WINDOW or len(self.known) <= WARM_UP:
            return ""
        known = self.known[WARM_UP:]
        before = statistics.median(step for step, _ in known)
        now = statistics.median(step for step, _ in self.last)
        waits = "waiting for another process, which is slow"
        grown = {
            name: statistics.median(of[name] for _, of in self.last)
            - statistics.median(of[name] for _, of in known)
            for name in parts
        }
        more = now - before + max(0.0, grown.get(waits, 0.0))
        if before + more <= DRIFT * before:
            return ""
        self.told = True
        worst = max(grown, key=lambda name: grown[name])
        now = before + more
        return (
            f"drift: the last {WINDOW} steps took {now:.4f} s, {now / before:.1f} times the "
            f"{before:.4f} s before, most of it {worst}"
        )


def _gains(found: Prediction, step_s: float) -> str:
    others = (("one process", found.one_process_s), ("data parallelism", found.data_parallel_s))
    parts = [f"{s / step_s:.2f} x {name} ({s:.4f} s predicted)" for name, s in others if s]
    return f"; speed {', '.join(parts)}" if parts else ""


def _write_plan(folder: Path, plan: Plan) -> None:
    """Begin the folder's files: what an earlier run measured is of another plan."""
    for name in ("execution.json", "executed.csv", "timeline.json"):
        remove_file(folder / name)
    write_whole(folder / "plan.json", json.dumps(plan.to_json(), indent=2).encode() + b"\n")


def _write(folder: Path, executed: Executed, predicted: bool) -> None:
    row = {
        "predicted_s": executed.predicted.step_s if predicted else "",
        "measured_s": executed.measured.step_s,
        "error": executed.error if predicted else "",
        "spread": executed.spread,
        "samples_s": " ".join(f"{s:.6f}" for s in executed.samples_s),
        "predicted_bytes": " ".join(f"{b:.0f}" for b in executed.predicted_bytes),
        "measured_bytes": " ".join(f"{b:.0f}" for b in executed.measured_bytes),
        **executed.plan.to_json(),
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    write_whole(folder / "executed.csv", text.getvalue().encode())
    runs = {"measured": executed.measured}
    if predicted:
        runs = {"predicted": executed.predicted, **runs}
        execution = Execution(
            workload=None,
            num_processes=executed.plan.num_devices,
            calibration=[],
            candidates=(),
            executed=(executed,),
        )
        write_whole(folder / "execution.json", json.dumps(execution.to_json()).encode())
    write_whole(folder / "timeline.json", json.dumps(chrome_trace(runs)).encode())


def report_from_environment(here: Path) -> Path | None:
    """`report_folder` of this process."""
    return report_folder(os.environ, here)
