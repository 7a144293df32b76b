"""Run plans on this machine and compare each with its prediction. Imports no torch."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parplan.backend.executable import (
    check_executable,
    why_not_split,
    why_not_tied,
    why_not_trained,
)
from parplan.backend.launch import Report, launch
from parplan.hardware.errors import ParplanError
from parplan.sim.memory import GB
from parplan.sim.plan import Plan, check_plan
from parplan.sim.run import Event, Run
from parplan.sim.workload import Workload

TIMEOUT_S = 1800.0

STATE_BYTES = 16
"""fp32 parameter, gradient and two moments of AdamW."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One plan as predicted and as it ran."""

    plan: Plan
    predicted: Run | None
    """None: only measured, for the reason that `why_not_predictable` gives."""
    measured: Run
    """The step of median duration."""
    samples_s: tuple[float, ...]
    """Every step after the warm-up."""
    loss_difference: float
    """Largest relative difference of its losses to those of one process without a plan."""

    @property
    def error(self) -> float | None:
        """Predicted over measured step time, minus one; None without a prediction."""
        if self.predicted is None:
            return None
        return self.predicted.step_s / self.measured.step_s - 1

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the steps, relative to the median."""
        ordered = sorted(self.samples_s)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / self.measured.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What one job found: the costs it measured, the plan it would choose, the plans it ran."""

    calibration: dict[str, Any]
    candidates: tuple[tuple[Plan, float], ...]
    """Every plan that could be executed, with its predicted step time in seconds."""
    executed: tuple[Executed, ...]

    @property
    def choice(self) -> Plan:
        """The candidate with the shortest predicted step."""
        return min(self.candidates, key=lambda candidate: candidate[1])[0]


def execute(
    workload: Workload,
    num_processes: int,
    plans: Sequence[Plan] = (),
    *,
    repeats: int = 8,
    warm_up: int = 2,
    seed: int = 0,
    timeout_s: float = TIMEOUT_S,
    report: Report = lambda line: None,
) -> Execution:
    """Calibrate, predict, and run `plans` and the choice in `num_processes` local processes.

    Calibration measures layers, messages, reductions and the optimizer, never a plan's own step.
    Plans whose costs it does not measure (`why_not_predictable`) run without a prediction.
    The plans take turns, one step each, so that a slow moment of the machine hits them alike.
    Raises `ParplanError` for what cannot be executed and `RunFailedError` when a worker dies.
    """
    if repeats < 1 or warm_up < 1:
        raise ParplanError(f"repeats and warm-up: must be at least 1, got {repeats} and {warm_up}")
    if reason := why_not_trained(workload):
        raise ParplanError(f"{workload.model.name}: {reason}")
    for plan in plans:
        _check(plan, workload, num_processes)
    _check_memory(workload, num_processes, len(plans))
    job = {
        "workload": dataclasses.asdict(workload),
        "plans": [plan.to_json() for plan in plans],
        "repeats": repeats,
        "warm_up": warm_up,
        "seed": seed,
    }
    found = launch(job, num_processes, timeout_s=timeout_s, report=report)
    return Execution(
        calibration=found["calibration"],
        candidates=tuple((Plan.from_json(p), step_s) for p, step_s in found["candidates"]),
        executed=tuple(_executed(table) for table in found["executed"]),
    )


def _check(plan: Plan, workload: Workload, num_processes: int) -> None:
    check_plan(plan, workload, num_processes)
    check_executable(plan, num_processes)
    if reason := why_not_split(workload.model, plan) or why_not_tied(workload.model, plan):
        raise ParplanError(f"plan: {reason}")


def _check_memory(workload: Workload, num_processes: int, num_plans: int) -> None:
    """Refuse what this machine's memory cannot hold: every plan keeps its own model and optimizer.

    The workers of a machine with GPUs find out themselves.
    """
    if shutil.which("nvidia-smi"):
        return
    copies = num_processes * (num_plans + 2)
    needed = STATE_BYTES * workload.model.num_parameters * copies
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ParplanError(
            f"{workload.model.name}: {copies} copies with their optimizers need "
            f"{needed / GB:.0f} GB, this machine has {there / GB:.0f} GB; take fewer layers"
        )


def run_table(run: Run) -> dict[str, Any]:
    """A run as JSON."""
    return {"step_s": run.step_s, "events": [list(event) for event in run.events]}


def _run(table: dict[str, Any], source: str) -> Run:
    events = tuple(Event(*event) for event in table["events"])
    return Run(step_s=table["step_s"], events=events, source=source)


def _executed(table: dict[str, Any]) -> Executed:
    return Executed(
        plan=Plan.from_json(table["plan"]),
        predicted=_run(table["predicted"], "predicted") if table["predicted"] else None,
        measured=_run(table["measured"], "measured"),
        samples_s=tuple(table["samples_s"]),
        loss_difference=table["loss_difference"],
    )
