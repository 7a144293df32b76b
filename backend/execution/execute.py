"""Run plans on this machine and compare each with its prediction. Imports no torch."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from parplan.backend.executable import (
    check_executable,
    why_not_split,
    why_not_tied,
    why_not_trained,
)
from parplan.backend.execution.result import Execution
from parplan.backend.workers.launch import ALONE, Nodes, OutOfMemoryError, Report, launch
from parplan.backend.workers.supervise import STALL_S
from parplan.errors import ParplanError, RunFailedError
from parplan.sim.memory.peak import GB, bytes_of_parameter
from parplan.sim.plan import Plan, check_plan
from parplan.sim.workload import Workload

TIMEOUT_S = 1800.0


class OtherNodeError(ParplanError):
    """Raised on every node but the first, which holds the results of a run over several nodes."""


def execute(
    workload: Workload,
    num_processes: int,
    plans: Sequence[Plan] = (),
    *,
    repeats: int = 8,
    warm_up: int = 1,
    seed: int = 0,
    choose: bool = True,
    hand_written: bool = False,
    budget_s: float | None = None,
    device: str = "auto",
    timeout_s: float = TIMEOUT_S,
    stall_s: float = STALL_S,
    nodes: Nodes = ALONE,
    report: Report = lambda line: None,
) -> Execution:
    """Calibrate, predict, and run `plans` and the choice in `num_processes` processes in all.

    With several `nodes`, each calls this for the same and has an equal part of the processes; for
    all but the first a run that went well ends in `OtherNodeError`.

    What predicts is measured on models of few blocks (`parplan.backend.proxies.proxy`), never on a
    plan's own step, and takes turns with the plans, one step each, so that a slow moment of the
    machine, and its drift, hit all alike. A plan that runs out of memory is recorded, and the
    others run. choose: whether to search, by the times of single layers, the best plan for each
    number of stages, and run these as well. hand_written: whether to run loops written for single
    plans beside them (`parplan.backend.execution.hand_written`). budget_s: no more steps begin when
    the timed ones have taken so long; a few are made anyway. device: "cpu", "cuda" (a GPU for each
    process), or "auto". Raises `ParplanError` for what cannot be executed and `RunFailedError` when
    a worker dies or hangs (`parplan.backend.workers.launch`).
    """
    if repeats < 1 or warm_up < 1:
        raise ParplanError(f"repeats and warm-up: must be at least 1, got {repeats} and {warm_up}")
    if reason := why_not_trained(workload):
        raise ParplanError(f"{workload.model.name}: {reason}")
    for plan in plans:
        _check(plan, workload, num_processes)
    if hand_written and workload.precision != "fp32":
        raise ParplanError(
            f"hand_written: there are loops for fp32 alone, not {workload.precision}"
        )
    if not plans and not choose:
        raise ParplanError("plans: none is given, and none is to be chosen")
    if num_processes % nodes.count:
        raise ParplanError(f"processes: {num_processes} do not divide over {nodes.count} nodes")
    local = num_processes // nodes.count
    _check_memory(workload, local, len(plans), device)
    job = {
        "workload": dataclasses.asdict(workload),
        "repeats": repeats,
        "warm_up": warm_up,
        "seed": seed,
        "choose": choose,
        "hand_written": hand_written,
        "budget_s": budget_s,
        "device": device,
    }
    start = partial(
        launch,
        num_processes=local,
        timeout_s=timeout_s,
        stall_s=stall_s,
        report=report,
        nodes=nodes,
    )
    found, left_out = _run(job, list(plans), start, report, nodes.count > 1)
    if found is None:
        raise OtherNodeError("done; the results are on node 0")
    return Execution.from_json(
        {
            "format": 1,
            "workload": job["workload"],
            "num_processes": num_processes,
            "out_of_memory": [plan.to_json() for plan in left_out],
            **found,
        }
    )


def _run(
    job: dict[str, Any], plans: list[Plan], start: Callable[..., Any], report: Report, several: bool
) -> tuple[dict[str, Any] | None, list[Plan]]:
    """Return the results of the job and the plans that did not fit.

    `several`: nodes take part, of which the others do not know what this one ran out of.
    """
    left_out: list[Plan] = []
    while True:
        job["plans"] = [plan.to_json() for plan in plans]
        try:
            return start(job), left_out
        except OutOfMemoryError as error:
            # With one process short of memory the others wait for ever: all have to start again.
            if several or error.place is None or error.place >= len(plans):
                raise
            left_out.append(plans.pop(error.place))
            if not plans and not job["choose"]:
                raise RunFailedError("no plan fits into the memory that is there") from error
            report(f"plan {error.place} ran out of memory; going on without it")


def _check(plan: Plan, workload: Workload, num_processes: int) -> None:
    check_plan(plan, workload, num_processes)
    check_executable(plan, num_processes)
    if reason := why_not_split(workload.model, plan) or why_not_tied(workload.model, plan):
        raise ParplanError(f"plan: {reason}")


def _check_memory(workload: Workload, num_processes: int, num_plans: int, device: str) -> None:
    """Refuse what this machine's memory cannot hold: every plan keeps its own model and optimizer.

    The workers of a machine with GPUs find out themselves.
    """
    if device != "cpu" and shutil.which("nvidia-smi"):
        return
    copies = num_processes * (num_plans + 2)
    # Every plan is trained by AdamW, whatever the workload is predicted with.
    each = sum(bytes_of_parameter(dataclasses.replace(workload, optimizer="adamw"), Plan()))
    needed = each * workload.model.num_parameters * copies
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ParplanError(
            f"{workload.model.name}: {copies} copies with their optimizers need "
            f"{needed / GB:.0f} GB, this machine has {there / GB:.0f} GB; take fewer layers"
        )
