"""One cell of a landscape: the plan that it stands for, or why there is none."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from parplan.errors import ParplanError, short
from parplan.experiments.landscape.axes import Axis, without
from parplan.experiments.landscape.machine import changed
from parplan.experiments.landscape.metrics import METRICS, measures
from parplan.experiments.output.journal import build_whole, check_amounts
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.objectives import TrainingRun
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.plan_words import plan_words
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import DIMENSIONS, Constraints
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.workload import Workload

Verdict = Literal["fits", "does not fit", "no such plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Result for one combination of values of a landscape."""

    values: Mapping[str, Any]
    verdict: Verdict
    reason: str = ""
    """Why no plan is possible; empty if one is."""
    plan: Mapping[str, Any] | None = None
    """The fastest plan with these values; if none fits, the one that needs least memory."""
    label: str = ""
    """That plan in few words."""
    memory_gb: float | None = None
    """Peak of its fullest accelerator."""
    limit_gb: float | None = None
    """What it may use."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By the names of `METRICS`; empty where no plan fits."""

    def __post_init__(self) -> None:
        if (self.verdict == "fits") != (not self.reason):
            raise ParplanError(f"reason: {short(self.reason)}, but the verdict is {self.verdict}")
        sizes = (self.plan, self.memory_gb, self.limit_gb)
        if any((one is None) != (self.verdict == "no such plan") for one in sizes):
            raise ParplanError(f"plan, memory_gb, limit_gb: not those of a cell: {self.verdict}")
        if (self.verdict == "fits") != bool(self.metrics):
            raise ParplanError(f"metrics: {len(self.metrics)}, but the verdict is {self.verdict}")
        check_amounts({"memory_gb": self.memory_gb, "limit_gb": self.limit_gb})
        check_amounts(self.metrics, METRICS)
        if self.plan is not None:
            build_whole(Plan, self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class LandscapeRequest:
    """The axes, metric and job of a landscape."""

    workload: Workload
    cluster: Cluster
    axes: tuple[Axis, ...]
    base: Constraints
    """What the plans of a cell may be, beside the values of its fields."""
    around: Plan | None = None
    """The plan whose other fields all cells keep; None: the best of all plans."""
    run: TrainingRun = field(default_factory=TrainingRun)

    def names(self, kind: str) -> list[str]:
        """The fields of one kind."""
        return [axis.name for axis in self.axes if axis.kind == kind]


def cell_of(
    cases: Sequence[Mapping[str, Any]], values: Mapping[str, Any], row: Mapping[str, Any]
) -> Cell:
    """The cell of these values, which are one of the cases; `row`: as `Worker.rows` has it.

    Raises `ParplanError` for what is none.
    """
    cell = build_whole(Cell, row)
    if dict(values) not in cases or dict(cell.values) != dict(values):
        raise ParplanError(f"not a cell of this landscape: {short(values)}")
    return cell


class Worker:
    """Evaluates cells; keeps the costs of the last machine and workload.

    Handed to another process, it knows the request alone.
    """

    def __init__(self, request: LandscapeRequest) -> None:
        self.request = request
        self._shared: SharedCosts | None = None

    def __reduce__(self) -> tuple[type["Worker"], tuple[LandscapeRequest]]:
        return Worker, (self.request,)

    def rows(self, cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The cells of these values as tables, one after the other."""
        for values in cells:
            yield dataclasses.asdict(self.cell(values))

    def cell(self, values: Mapping[str, Any]) -> Cell:
        """The cell of these values."""
        try:
            workload, cluster = self._setting(values)
            trials = self._trials(values, workload, cluster)
        except ParplanError as error:
            return Cell(values=values, verdict="no such plan", reason=str(error))
        laid_out = [trial for trial in trials if trial.memory_bytes]
        if not laid_out:
            reason = trials[0].reason if trials else "no plan has these values"
            return Cell(values=values, verdict="no such plan", reason=reason)
        best = min(laid_out, key=STEP_TIME.energy)
        return Cell(
            values=values,
            verdict="fits" if best.fits else "does not fit",
            reason=best.reason,
            plan=best.plan.to_json(),
            label=plan_words(best.plan),
            memory_gb=max(best.memory_bytes) / GB,
            limit_gb=self.request.base.memory_ratio * cluster.accelerator.memory_bytes / GB,
            metrics=measures(best, workload, cluster, self.request.run) if best.fits else {},
        )

    def _setting(self, values: Mapping[str, Any]) -> tuple[Workload, Cluster]:
        workload, cluster = self.request.workload, self.request.cluster
        own = {name: values[name] for name in self.request.names("workload")}
        workload = replace(workload, **own)
        for name in self.request.names("machine"):
            cluster = changed(cluster, name, values[name])
        return workload, cluster

    def _trials(
        self, values: Mapping[str, Any], workload: Workload, cluster: Cluster
    ) -> Sequence[Trial]:
        """Trials of plans with these values, the best among them."""
        shared = self._costs(workload, cluster)
        wanted = {name: values[name] for name in self.request.names("plan")}
        ratio = self.request.base.memory_ratio
        if self.request.around is not None:
            plans = [laid_out(self.request.around, wanted, workload, cluster)]
            return _asked(plans, workload, cluster, ratio, shared)
        fixed = {name: value for name, value in wanted.items() if name in DIMENSIONS}
        other = {name: value for name, value in wanted.items() if name not in DIMENSIONS}
        base = without(self.request.base, list(fixed))
        narrow: dict[str, Any] = {name: (value,) for name, value in fixed.items()}
        space = make_space(workload, cluster, replace(base, **narrow))
        if not other:
            best = run_planner("branch-and-bound", space, shared=shared).whole().best
            if best is not None and _has(best.plan, fixed):
                return [best]
        plans = list(_with(space, fixed, other))
        return _asked(plans, workload, cluster, ratio, shared)

    def _costs(self, workload: Workload, cluster: Cluster) -> SharedCosts:
        if self._shared is not None:
            try:
                self._shared.check(workload, cluster)
            except ParplanError:
                self._shared = None
        if self._shared is None:
            self._shared = SharedCosts(workload, cluster)
        return self._shared


def _asked(
    plans: Sequence[Plan],
    workload: Workload,
    cluster: Cluster,
    ratio: float,
    shared: SharedCosts,
) -> Sequence[Trial]:
    return Evaluator(workload, cluster, memory_ratio=ratio, shared=shared).many(plans)


def _has(plan: Plan, values: Mapping[str, Any]) -> bool:
    """Whether a plan has these values; one without a pipeline has no schedule."""
    if "schedule" in values and plan.num_stages == 1:
        return False
    return all(getattr(plan, name) == value for name, value in values.items())


def _with(space: Space, fixed: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[Plan]:
    """The plans of a space that have these values: it also has some for which they mean nothing.

    Raises `ParplanError` where none can have the `other` ones.
    """
    found, refused = list[Plan](), None
    for plan in space:
        if _has(plan, fixed):
            try:
                found.append(replace(plan, **other))
            except ParplanError as error:
                refused = error
    if refused is not None and not found:
        raise refused
    return found


def laid_out(around: Plan, wanted: Mapping[str, Any], workload: Workload, cluster: Cluster) -> Plan:
    """`around` with other values of some fields, spread over the cluster and the batch.

    Data parallelism takes the accelerators that are left, unless it is wanted; then the pipeline
    does. The number of micro-batches follows, or their size where the number is wanted. Raises
    `ParplanError` where it does not come out even.
    """
    given = dict(wanted)
    given |= zero_fields(given.pop("zero_stage")) if "zero_stage" in given else {}
    stages = given.get("num_stages", around.num_stages)
    chunks = given.get("virtual_stages", around.virtual_stages if stages > 1 else 1)
    schedule = given.get("schedule", around.schedule if stages > 1 else "1f1b")
    tensor = given.get("tensor_parallel", around.tensor_parallel)
    context = given.get("context_parallel", around.context_parallel)
    each, devices = tensor * context, cluster.num_accelerators
    data = given.get("data_parallel") or _even(devices, each * stages, "accelerators")
    if "data_parallel" in given and "num_stages" not in given:
        stages = _even(devices, each * data, "accelerators")
    own = _even(workload.global_batch, data, "sequences")
    if "num_micro_batches" in given:
        count = given["num_micro_batches"]
        size = given.get("batch_per_device") or _even(own, count, "sequences of a replica")
    else:
        size = given.get("batch_per_device", around.batch_per_device)
        count = _even(own, size, "sequences of a replica")
    table = dataclasses.asdict(around) | given
    return Plan(
        **table
        | {
            "num_stages": stages,
            "virtual_stages": chunks,
            "schedule": schedule,
            "sequence_parallel": given.get("sequence_parallel", around.sequence_parallel)
            and tensor > 1,
            "data_parallel": data,
            "batch_per_device": size,
            "num_micro_batches": count,
            "stage_layers": around.stage_layers if stages == around.num_stages else None,
        }
    )


def _even(whole: int, part: int, what: str) -> int:
    share, rest = divmod(whole, part)
    if rest or share < 1:
        raise ParplanError(f"{whole} {what} do not divide by {part}")
    return share
