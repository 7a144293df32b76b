"""Faster plans that differ little from a given one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.report import Progress, no_progress
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

EQUAL = 0.001
"""Steps that are shorter by a smaller share are not called faster."""

SCHEDULES = ("1f1b", "interleaved-1f1b")
"""Those that most software has; the plan's own is tried as well."""

DIMENSIONS = (
    *("tensor_parallel", "num_stages", "data_parallel", "context_parallel", "expert_parallel"),
    *("batch_per_device", "recomputation", "zero_stage", "sequence_parallel"),
)
"""What counts as a change, beside the schedule; micro-batches follow from the others."""

TAKEN = (
    *("num_stages", "num_micro_batches", "batch_per_device", "data_parallel", "tensor_parallel"),
    *("sequence_parallel", "context_parallel", "expert_parallel", "recomputation"),
    *("distribute_param", "distribute_gradient", "distribute_low_prec_param"),
    *("schedule", "virtual_stages"),
)
"""Fields that come from a candidate; the others stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Better:
    """A plan that is faster, and in what it differs."""

    trial: Trial
    changes: tuple[tuple[str, Any, Any], ...]
    """(dimension, before, after)."""

    @property
    def words(self) -> str:
        """The changes in words."""
        return ", ".join(f"{name} {before} -> {after}" for name, before, after in self.changes)


def better_plans(
    workload: Workload,
    cluster: Cluster,
    plan: Plan,
    step_s: float,
    *,
    memory_ratio: float = 0.8,
    progress: Progress = no_progress,
) -> tuple[tuple[Better, ...], int]:
    """The fastest plan of each number of changes that is faster than any with fewer.

    Returns how many plans were tried as well. The candidates are all layouts with `SCHEDULES`, with
    what a space does not have (overlap, dtype of gradients, operations that are recomputed) as in
    `plan`. `step_s`: that of `plan`; infinite where it does not fit, for the fastest that does.
    """
    candidates = tuple(dict.fromkeys(_candidates(workload, cluster, plan)))
    report = exhaustive(
        workload, cluster, candidates, memory_ratio=memory_ratio, progress=progress
    ).whole()
    return _frontier(plan, step_s, report.trials), len(candidates)


def _candidates(workload: Workload, cluster: Cluster, plan: Plan) -> Iterator[Plan]:
    allowed = Constraints(
        context_parallel=tuple({1, plan.context_parallel}),
        virtual_stages=tuple({1, 2, 4, plan.virtual_stages}),
        schedule=tuple(dict.fromkeys((*SCHEDULES, plan.schedule))),
        sequence_parallel=tuple({True, plan.sequence_parallel}),
    )
    for candidate in make_space(workload, cluster, allowed):
        fields = {name: getattr(candidate, name) for name in TAKEN}
        for dropped in ((), ("stage_layers",), ("stage_layers", "shard_group")):
            own: dict[str, Any] = fields | dict.fromkeys(dropped)
            try:
                yield replace(plan, **own)
            except ParplanError:
                continue
            break


def _frontier(plan: Plan, step_s: float, trials: Sequence[Trial]) -> tuple[Better, ...]:
    best: dict[int, Better] = {}
    for trial in trials:
        if trial.step_s is None:
            continue
        found = Better(trial=trial, changes=changes_between(plan, trial.plan))
        known = best.get(len(found.changes))
        if known is None or trial.step_s < (known.trial.step_s or 0.0):
            best[len(found.changes)] = found
    frontier, fastest_s = [], step_s
    for count in sorted(best):
        taken_s = best[count].trial.step_s or 0.0
        if count and taken_s < (1 - EQUAL) * fastest_s:
            frontier.append(best[count])
            fastest_s = taken_s
    return tuple(frontier)


def changes_between(plan: Plan, other: Plan) -> tuple[tuple[str, Any, Any], ...]:
    """The dimensions in which two plans differ; data parallelism follows from the other degrees."""
    differing = [
        (name, getattr(plan, name), getattr(other, name))
        for name in DIMENSIONS
        if getattr(plan, name) != getattr(other, name)
    ]
    names = [name for name, _, _ in differing]
    degrees = {"tensor_parallel", "num_stages", "context_parallel"}
    if degrees & set(names):
        differing = [change for change in differing if change[0] != "data_parallel"]
    if min(plan.num_stages, other.num_stages) > 1 and _ordering(plan) != _ordering(other):
        differing.append(("schedule", _ordering(plan), _ordering(other)))
    if plan.tensor_parallel == 1 or other.tensor_parallel == 1:
        differing = [c for c in differing if c[0] != "sequence_parallel"]
    return tuple(differing)


def _ordering(plan: Plan) -> str:
    chunks = f" x {plan.virtual_stages}" if plan.virtual_stages > 1 else ""
    return f"{plan.schedule}{chunks}"
