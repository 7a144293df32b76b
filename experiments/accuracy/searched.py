"""What the search answers for published jobs, beside the plans that were run."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.cases.read import Case
from parplan.experiments.cases.request import CaseRequest, request_of
from parplan.experiments.output.tables import columns
from parplan.experiments.planning.alternatives import MAIN, grouped
from parplan.experiments.planning.search import begun_well
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.search.budget import Budget
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.everything import everything
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.analysis.time_split import TimeSplit, time_split
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload

MEMORY_RATIO = 0.95
"""Share of each device's memory that answers may use at least: runs of vendors fill it. Where what
was run takes more, and fits, they may use as much."""

GAP = 0.01
"""A search of a job ends where no more can be gained; answers worse by less are not worse."""

CLAIM = 0.1
"""An answer that is said to be faster than what was run by more than this is a finding."""

SOFTWARE = ("gradient_dtype", "overlap_gradient_reduction", "overlap_tensor_parallel")
"""Fields of a plan that a training stack sets: an answer has those of the run."""

DERIVED = ("data_parallel", "num_micro_batches", "recomputed_of_stages")
"""Fields that are no dimensions of a space, and are told where they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedRun:
    """One published run, whether its plan is in the default space, and the answer for its job."""

    case: Case
    request: CaseRequest | None = None
    in_space: bool = False
    reason: str = ""
    """Why it cannot be laid out, what its plan has that the space does not, or why there is no
    answer to compare it with."""
    run_step_s: float | None = None
    """Predicted for the plan that was run."""
    run_memory: float = 0.0
    """Predicted for the fullest device of what was run, over the memory that it has."""
    best: Plan | None = None
    best_step_s: float | None = None
    gap: float | None = None
    """What may still be gained over the answer."""
    differs: str = ""
    terms: Mapping[str, float] | None = None
    """Seconds that the answer saves, by part of the step; negative: that it takes longer."""

    @property
    def claim(self) -> float | None:
        """The share of the predicted step that the answer claims to save.

        None where there is no answer, or where what was run does not fit by the memory model: it is
        then not what ran (a setting that its source leaves out).
        """
        if self.run_step_s is None or self.best_step_s is None or self.run_memory > 1:
            return None
        return 1 - self.best_step_s / self.run_step_s

    @property
    def term(self) -> str:
        """The parts of the step in which the answer saves, and that in which it loses the most."""
        saved = dict(self.terms or {})
        total = sum(value for value in saved.values() if value > 0)
        named = sorted((p for p in saved if saved[p] >= MAIN * total > 0), key=lambda p: -saved[p])
        least = min(saved, key=saved.__getitem__, default="")
        named += [least] if saved and saved[least] <= -MAIN * total < 0 else []
        return ", ".join(f"{part} {-saved[part]:+.3g} s" for part in named)


def searched(case: Case, seconds: float) -> SearchedRun:
    """One run; `seconds`: processor time for the search of its job, 0 for none."""
    try:
        request = request_of(case)
        run_s, memory, split = _step(request.workload, request.cluster, request.plan)
        space = space_of(request, memory)
    except ParplanError as error:
        return SearchedRun(case=case, reason=str(error))
    reason = why_not_in(space, request.plan)
    found = SearchedRun(
        case=case,
        request=request,
        in_space=not reason,
        reason=reason,
        run_step_s=run_s,
        run_memory=memory,
    )
    if not seconds:
        return found
    if memory > 1:
        lacking = f"what was run takes {memory:.0%} of the memory as predicted: not compared"
        return replace(found, reason=reason or lacking)
    clock, shared = time.process_time, SharedCosts(space.workload, space.cluster)
    budget = begun_well(space, Budget(seconds=seconds, gap=GAP), STEP_TIME, shared, clock)
    report = run_planner(
        *("branch-and-bound", space),
        budget=budget,
        with_gap=True,
        clock=clock,
        shared=shared,
    ).whole()
    if report.best is None:
        return replace(found, reason=reason or f"no plan that fits was found ({report.stopped})")
    gathers = request.plan.overlap_parameter_gather
    best = replace(report.best.plan, overlap_parameter_gather=gathers)
    best_s, _, own = _step(request.workload, request.cluster, best)
    before, after = grouped(split), grouped(own)
    return replace(
        found,
        best=best,
        best_step_s=best_s,
        gap=report.gap,
        differs=differences(with_effect(request.plan), with_effect(best)),
        terms={part: before[part] - after[part] for part in before},
    )


def sampled(cases: Sequence[Case], count: int) -> list[Case]:
    """So many different runs that can be laid out, of each source alike, spread over its list."""
    groups: dict[str, dict[Any, Case]] = {}
    for case in cases:
        try:
            request = request_of(case)
        except ParplanError:
            continue
        key = request.workload, request.cluster.name, request.plan
        groups.setdefault(case.group, {}).setdefault(key, case)
    wanted = dict.fromkeys(groups, 0)
    for _ in range(min(count, sum(map(len, groups.values())))):
        free = [name for name in groups if wanted[name] < len(groups[name])]
        wanted[min(free, key=lambda name: wanted[name])] += 1
    chosen = []
    for name, number in wanted.items():
        own = list(groups[name].values())
        chosen += [own[(2 * i + 1) * len(own) // (2 * number)] for i in range(number)]
    return chosen


def space_of(request: CaseRequest, memory: float = 0.0) -> Space:
    """The default space of the job, with what the training stack of the run sets and has.

    `memory`: the share that the plan that was run takes.
    """
    own: dict[str, Any] = {name: (getattr(request.plan, name),) for name in SOFTWARE}
    own["schedule"] = tuple(dict.fromkeys((*request.stack.schedules, request.plan.schedule)))
    own["memory_ratio"] = max(MEMORY_RATIO, memory) if memory <= 1 else MEMORY_RATIO
    allowed = replace(everything(request.workload, request.cluster), **own)
    return make_space(request.workload, request.cluster, allowed)


def why_not_in(space: Space, plan: Plan) -> str:
    """What a plan has that the nearest plan of the space does not; empty for one of the space."""
    asked = with_effect(plan)
    if asked in space:
        return ""
    return differences(asked, space.nearest(point_of(asked))) or "not in the space"


def with_effect(plan: Plan) -> Plan:
    """The plan without what has no effect on it.

    Nor gathers beside the next forward, which the training stack sets.
    """
    values: dict[str, Any] = {"overlap_parameter_gather": False}
    if plan.replicas == 1:
        values |= {**zero_fields(0), "shard_group": None, "overlap_gradient_reduction": True}
    if plan.tensor_parallel == 1:
        values |= {"sequence_parallel": False, "overlap_tensor_parallel": False}
    if plan.expert_tensor_parallel == plan.tensor_parallel:
        values["expert_tensor_parallel"] = None
    if plan.shard_group == plan.replicas or plan.zero_stage == 0:
        values["shard_group"] = None
    if plan.num_stages == 1:
        values |= {"schedule": "1f1b", "virtual_stages": 1, "stage_layers": None}
    if plan.recomputation == "none":
        values["recomputed_layers"] = None
    return replace(plan, **values)


def differences(plan: Plan, other: Plan) -> str:
    """The dimensions in which two plans differ, with both values."""
    one, two = _values(plan), _values(other)
    return "; ".join(
        f"{name} {_said(one[name])} -> {_said(two[name])}" for name in one if one[name] != two[name]
    )


def _values(plan: Plan) -> dict[str, Any]:
    point = point_of(plan)
    found = {**point.values(), **{name: getattr(plan, name) for name in DERIVED}}
    chunks = f" x {point.ordering.virtual_stages}" if point.ordering.virtual_stages > 1 else ""
    found["schedule"] = f"{point.ordering.schedule}{chunks}"
    found["layers of stages"] = plan.stage_layers
    del found["ordering"]
    return found


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _step(workload: Workload, cluster: Cluster, plan: Plan) -> tuple[float, float, TimeSplit]:
    """Seconds of a step, share of the memory that it takes, and where the time goes."""
    compiled = compile_plan(workload, cluster, plan)
    run = predict(compiled)
    memory = compiled.peak_bytes / cluster.accelerator.memory_bytes
    return run.step_s, memory, time_split(workload, cluster, compiled, run)


def search_row(found: SearchedRun) -> dict[str, Any]:
    """A run as a row of `search.csv`."""
    plan = None if found.request is None else found.request.plan
    return {
        "id": found.case.id,
        "group": found.case.group,
        "in_space": found.in_space,
        "reason": found.reason,
        "run_step_s": _number(found.run_step_s),
        "best_step_s": _number(found.best_step_s),
        "gap": _number(found.gap),
        "measured_step_s": _number(found.case.step_s),
        "run_memory": _number(found.run_memory),
        "claim": _number(found.claim),
        "differs": found.differs,
        "term": found.term,
        "run_zero_stage": "" if plan is None else plan.zero_stage,
        "best_zero_stage": "" if found.best is None else found.best.zero_stage,
        "run_num_stages": "" if plan is None else plan.num_stages,
        "best_num_stages": "" if found.best is None else found.best.num_stages,
    }


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def search_summary(results: Sequence[SearchedRun]) -> str:
    """A line for each source: plans in the space, and what answers claim."""
    head = (
        *("source", "runs", "plans", "in space", "answers", "no worse", "claim (median)"),
        *(f"claims > {CLAIM:.0%}", "ZeRO-3 run/answer", "pipeline run/answer"),
    )
    groups: dict[str, list[SearchedRun]] = {}
    for found in results:
        groups.setdefault(found.case.group, []).append(found)
    rows = [_line(name, own) for name, own in sorted(groups.items())]
    return columns([head, *rows, _line("all", results)])


def _line(name: str, results: Iterable[SearchedRun]) -> tuple[str, ...]:
    laid_out = [(r.request, r) for r in results if r.request is not None]
    plans = {(q.workload, q.plan, q.cluster.name): r for q, r in laid_out}
    inside = sum(r.in_space for r in plans.values())
    said = [name, str(len(laid_out)), str(len(plans)), _share(inside, len(plans))]
    claims = {key: r.claim for key, r in plans.items() if r.claim is not None}
    if not claims:
        return (*said, *["-"] * 6)
    chosen = [(key[1], plans[key].best) for key in claims]
    answers = [(run, best) for run, best in chosen if best is not None]
    return (
        *said,
        str(len(claims)),
        _share(sum(c >= -GAP for c in claims.values()), len(claims)),
        f"{median(claims.values()):.1%}",
        str(sum(c > CLAIM for c in claims.values())),
        "{}/{}".format(
            *(sum(p.zero_stage == 3 for p in own) for own in zip(*answers, strict=True))
        ),
        "{}/{}".format(*(sum(p.num_stages > 1 for p in own) for own in zip(*answers, strict=True))),
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def findings(results: Sequence[SearchedRun]) -> list[str]:
    """A line for each plan that the space does not have, then for each claim above `CLAIM`."""
    missing: Mapping[str, str] = {
        f"{r.case.group}: {r.reason}": r.case.id
        for r in results
        if r.request is not None and not r.in_space
    }
    lines = [f"not in the space: {what} ({case_id})" for what, case_id in missing.items()]
    lines += terms_of_claims(results)
    lines += [
        f"claims {r.claim:.0%} over {r.case.id}: {r.term}; {r.differs}"
        for r in results
        if r.claim is not None and r.claim > CLAIM
    ]
    return lines


def terms_of_claims(results: Iterable[SearchedRun]) -> list[str]:
    """A line that says in how many claims above `CLAIM` each part of the step saves the most."""
    carried: dict[str, int] = {}
    for found in results:
        if found.claim is not None and found.claim > CLAIM and found.terms:
            part = max(found.terms, key=found.terms.__getitem__)
            carried[part] = carried.get(part, 0) + 1
    if not carried:
        return []
    said = ", ".join(f"{part} {n}" for part, n in sorted(carried.items(), key=lambda i: -i[1]))
    return [f"claims > {CLAIM:.0%} by the part of the step that saves the most: {said}"]
