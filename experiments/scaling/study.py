"""Scaling studies: best plan per cluster size, its time split and bottlenecks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from parplan.errors import ParplanError, short
from parplan.experiments.landscape.machine import changed
from parplan.experiments.output.journal import build_whole, check_amounts
from parplan.experiments.scaling.machines import AS_IT_IS, ScaledMachine
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.why import plan_label
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.analysis.time_split import BUBBLE, time_split
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload

GROUPS = {
    "compute": ("compute",),
    "recomputation": ("recomputation",),
    "bubble": (*BUBBLE, "messages"),
    "exposed tensor-parallel": ("tensor exchange", "context exchange", "expert exchange"),
    "exposed data-parallel": ("gradient reduction", "parameter gather"),
    "optimizer": ("optimizer",),
    "software": ("launch", "software"),
}
"""Parts of `parplan.sim.analysis.time_split` that are told apart."""

RESOURCES = ("compute", "memory_bandwidth", "node_bandwidth", "network_bandwidth", "memory")
"""What is doubled to find what a step waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePoint:
    """One size of one machine."""

    accelerators: int
    global_batch: int
    reason: str = ""
    """Why no plan is possible; empty if one is."""
    plan: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The plan's."""
    step_s: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    memory_gb: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the step, by the names of `GROUPS`."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """Share of the step that is saved if a resource were twice as large; compute to bandwidth:
    with the plan kept; memory: with the best plan that then fits. Where it was asked for."""

    def __post_init__(self) -> None:
        numbers = {
            name: getattr(self, name)
            for name in ("step_s", "tokens_per_s", "mfu", "memory_gb", "accelerators")
        }
        check_amounts(numbers)
        check_amounts(self.shares, GROUPS)
        if not set(self.gains) <= set(RESOURCES):
            raise ParplanError(f"gains: {', '.join(map(short, self.gains))}")
        if self.reason or not self.plan:  # Nothing fits, or it is not known yet.
            return
        if not self.step_s or not self.tokens_per_s or None in numbers.values():
            raise ParplanError("a plan without the numbers of its step")
        if set(self.shares) != set(GROUPS):
            raise ParplanError(f"shares: expected {', '.join(GROUPS)}")
        build_whole(Plan, self.fields)

    @property
    def loss(self) -> str:
        """Return the largest part of the step beside computation; empty where nothing fits."""
        lost = {name: share for name, share in self.shares.items() if name != "compute"}
        return max(lost, key=lambda name: lost[name]) if lost else ""

    @property
    def bottleneck(self) -> str:
        """The resource whose double saves most, beside compute; empty if it was not asked."""
        others = {name: gain for name, gain in self.gains.items() if name != "compute"}
        return max(others, key=lambda name: others[name]) if others else ""


def point(
    workload: Workload, machine: ScaledMachine, count: int, base: Constraints, *, ask_why: bool
) -> ScalePoint:
    """The best plan for `workload` on `count` accelerators of `machine`, within `base`.

    `ask_why`: also find what would make it faster.
    """
    cluster = machine.sized(count)
    found = ScalePoint(accelerators=count, global_batch=workload.global_batch)
    try:
        best, reason = _best(workload, cluster, base)
    except ParplanError as error:
        return replace(found, reason=str(error))
    if best is None or best.step_s is None:
        return replace(found, reason=reason)
    compiled = compile_plan(workload, cluster, best.plan)
    split = time_split(workload, cluster, compiled, predict(compiled))
    peak = cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    return replace(
        found,
        plan=plan_label(best.plan),
        fields=asdict(best.plan),
        step_s=best.step_s,
        tokens_per_s=workload.tokens / best.step_s,
        mfu=workload.model_flops / best.step_s / count / peak,
        memory_gb=max(best.memory_bytes) / GB,
        shares={name: split.share(*parts) for name, parts in GROUPS.items()},
        gains=_gains(workload, cluster, best, base) if ask_why else {},
    )


def point_of(case: Mapping[str, Any], row: Mapping[str, Any]) -> ScalePoint:
    """The point of a case, both as `point_rows` has them; raises `ParplanError` for what is none.

    The case may be one of another study of the same job.
    """
    found = build_whole(ScalePoint, row)
    own = {"size": found.accelerators, "batch": found.global_batch}
    machine = build_whole(ScaledMachine, case.get("machine") or {})
    if dict(case) != {"machine": asdict(machine), **own} or not (found.reason or found.plan):
        raise ParplanError(f"not a point of this study: {short(case)}")
    machine.sized(found.accelerators)
    return found


def point_rows(
    workload: Workload,
    machines: Sequence[ScaledMachine],
    base: Constraints,
    cases: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The points of cases as tables, one after the other.

    Cases: `machine` as a table, `size`, global `batch`. What would make it faster is found for a
    machine as it is.
    """
    by_table = [(asdict(machine), machine) for machine in machines]
    for case in cases:
        machine = next(one for table, one in by_table if table == case["machine"])
        own = replace(workload, global_batch=case["batch"])
        why = machine.label == AS_IT_IS
        yield asdict(point(own, machine, case["size"], base, ask_why=why))


def _best(workload: Workload, cluster: Cluster, base: Constraints) -> tuple[Trial | None, str]:
    """The fastest plan; where nothing fits, what the nearest lacks."""
    space = make_space(workload, cluster, base)
    shared = SharedCosts(workload, cluster)
    best = run_planner("branch-and-bound", space, shared=shared).whole().best
    if best is not None:
        return best, ""
    trials = [shared.judge(plan, base.memory_ratio) for plan in space]
    laid_out = [trial for trial in trials if trial.memory_bytes]
    nearest = min(laid_out, key=lambda t: max(t.memory_bytes), default=None)
    return None, nearest.reason if nearest is not None else trials[0].reason


def _gains(
    workload: Workload, cluster: Cluster, best: Trial, base: Constraints
) -> dict[str, float]:
    """Time saved by doubling each resource, as a share of the step."""
    before, found = best.step_s or 1.0, dict[str, float]()
    for name in RESOURCES:
        try:
            better = changed(cluster, name, 2.0)
        except ParplanError:
            continue  # It has none, such as a network of a single node.
        if name == "memory":
            other, _ = _best(workload, better, base)
            after = other.step_s if other is not None and other.step_s else before
        else:
            after = predict(compile_plan(workload, better, best.plan)).step_s
        found[name] = 1 - after / before
    return found
