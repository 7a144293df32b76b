"""The search that the arguments of `parplan plan` ask for."""

import argparse
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from parplan._strict import read_text
from parplan.backend.executable import executable_only
from parplan.errors import ParplanError
from parplan.experiments.arguments.dask import requested_executor
from parplan.experiments.arguments.objective import Chosen, chosen_objective
from parplan.experiments.arguments.space import requested_space
from parplan.experiments.output.progress import ProgressLine
from parplan.experiments.planning.ap.both_stacks import BothStacks, compared, platform_workload
from parplan.experiments.planning.record import Record, SearchRecorder
from parplan.hardware.network.cluster import Cluster
from parplan.planners.ap.candidates import ap_candidates
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import Goal
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.why import CLOSE
from parplan.planners.search.budget import Budget, Clock, budget_of
from parplan.planners.search.exhaustive import exhaustive, exhaustive_in_parts
from parplan.planners.search.limits import MOST_RECORDED, check_record
from parplan.planners.search.report import Report
from parplan.planners.search.run import (
    ONE_BY_ONE,
    Planner,
    SearchReport,
    find_planner,
    planner_names,
    run_planner,
)
from parplan.planners.spaces.checks import check_candidates
from parplan.planners.spaces.everything import coarse_part
from parplan.planners.spaces.make import full_candidates, make_space
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Space
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

DEFAULT_PLANNER = "branch-and-bound"

DEFAULT_GAP = 0.01
"""A long search of everything ends when at most such a share of the step can be gained."""

DEFAULT_SECONDS = 120.0
"""Or after so many seconds."""

LARGE_SPACE = 20_000_000
"""A space of so many plans is searched from the best plan of a small part of it."""

COARSE_SHARE = 0.3
"""Of the seconds, for that part."""


class Search(NamedTuple):
    """A search that is ready to run."""

    num_candidates: int
    memory_ratio: float
    space: Space | None
    """None: a list of candidates."""
    run: Callable[[], Report]
    left_out: str = ""
    """What is said about candidates that cannot be executed."""
    record: Record | None = None
    """Of what was tried, which goes once the results of the whole search are on the disk; None:
    it stays, as one of the results."""

    def num_of(self, report: Report) -> int:
        """Candidates of the space that was searched in the end."""
        return report.space_size if isinstance(report, SearchReport) else self.num_candidates


class SearchRequest(NamedTuple):
    """The job, space and settings of a search."""

    args: argparse.Namespace
    workload: Workload
    cluster: Cluster
    options: Options
    vary: bool
    """Whether the size of batches does, which rules pipelines out."""
    chosen: Chosen
    default_workload: Workload | None = None
    """By parplan's default stack, where `workload` is by that of AP's platform."""

    def progress(self) -> ProgressLine:
        """What tells how the search goes: nothing with `--quiet` and `--json`."""
        silent = self.args.quiet or self.args.json
        return ProgressLine(quiet_s=math.inf) if silent else ProgressLine()

    def record(self, memory_ratio: float) -> Record:
        """The file of what was tried."""
        return Record(self.args.output, self.workload, self.cluster, memory_ratio)

    def depends_on(self) -> dict[str, str]:
        """What the results depend on beside the arguments: what the files hold that these name."""
        table = {"digest": self.record(0.0).digest}
        space = str(self.args.space or "")
        if space.endswith(".toml"):
            table["space"] = read_text(Path(space))
        return table


def request_of(
    args: argparse.Namespace, workload: Workload, cluster: Cluster, options: Options, vary: bool
) -> SearchRequest:
    """The search that is asked for, by the software of AP's platform where that is meant."""
    chosen = chosen_objective(args, workload, cluster)
    own = platform_workload(args, workload, cluster)
    if own is None:
        return SearchRequest(args, workload, cluster, options, vary, chosen)
    return SearchRequest(args, own, cluster, options, vary, chosen, workload)


def both_stacks(
    asked: SearchRequest, trials: Sequence[Trial], memory_ratio: float
) -> BothStacks | None:
    """What AP's stack and the default one say of its candidates, where both are asked."""
    if asked.default_workload is None:
        return None
    version = asked.args.ap_version
    return compared(version, asked.default_workload, asked.cluster, trials, memory_ratio)


def search_of(asked: SearchRequest) -> Search:
    """The search that is asked for; raises `ParplanError` for what it cannot be."""
    args, workload, cluster, options = asked[:4]
    if args.space is None:
        args.space = default_space(args)
    if args.planner is not None:
        return _by_planner(asked, args.planner)
    if args.space == "everything":
        # Too many plans to try them all.
        return _by_planner(asked, DEFAULT_PLANNER)
    if args.budget is not None:
        raise ParplanError("--budget: needs --planner; the default tries every candidate")
    ratio, found = options.memory_ratio, None
    if args.space == "ap":
        candidates = ap_candidates(workload, cluster, options, args.ap_version, asked.vary)
    elif args.space == "full":
        candidates = full_candidates(workload, cluster, options)
    else:
        found = requested_space(args, workload, cluster, options)
        ratio = found.constraints.memory_ratio
        if len(found) > MOST_RECORDED:
            return _in_parts(asked, found)
        candidates = list(found)
    left_out = ""
    if args.executable:
        candidates, left_out = _executable(workload, cluster, candidates)
    check_candidates(workload, cluster, candidates)
    known = asked.record(ratio).read() if args.resume else []
    run = partial(_exhaustive, asked, candidates, ratio, known)
    return Search(len(candidates), ratio, found, run, left_out, asked.record(ratio))


def default_space(args: argparse.Namespace) -> str:
    """What is searched where `--space` is not given.

    Everything, where bounds alone have to be proven; with planners that need more than a bound of
    each plan, and for a Pareto front, full.
    """
    by_bounds = args.planner in (None, DEFAULT_PLANNER) and args.dask is None
    return "everything" if by_bounds and not getattr(args, "pareto", False) else "full"


def _by_planner(asked: SearchRequest, planner: str | Planner) -> Search:
    args, workload, cluster, options = asked[:4]
    if isinstance(planner, str):
        find_planner(planner)
    if args.dask is not None and planner in ONE_BY_ONE:
        others = [name for name in planner_names() if name not in ONE_BY_ONE]
        raise ParplanError(
            f"--dask: {planner} asks for one plan after the other, so that there is nothing "
            f"to spread; these do: {', '.join(others)}"
        )
    if asked.vary:
        options = replace(options, pipeline_parallel=False)
    space = requested_space(args, workload, cluster, options)
    ratio = space.constraints.memory_ratio
    budget = _budget(args)
    record = asked.record(ratio)
    check_record(planner, space, budget)
    known = record.read() if args.resume else []

    def run() -> Report:
        report = search(space)
        if args.space == "everything" and report.best is None and report.proven:
            more = requested_space(args, workload, cluster, options, offloading=True)
            return search(more) if more.constraints != space.constraints else report
        return report

    def begun(space: Space, shared: SharedCosts) -> Budget | None:
        if budget is None or planner != DEFAULT_PLANNER:
            return budget
        return begun_well(space, budget, asked.chosen.goal, shared)

    def search(space: Space) -> SearchReport:
        shared = SharedCosts(space.workload, space.cluster)
        with contextlib.ExitStack() as stack:
            watch = SearchRecorder(record.begin(known), len(space), asked.progress())
            stack.callback(watch.end)
            executor = stack.enter_context(requested_executor(args.dask))
            return run_planner(
                planner,
                space,
                budget=begun(space, shared) if args.space == "everything" else budget,
                seed=args.seed,
                goal=asked.chosen.goal,
                known=known,
                watch=watch,
                with_gap=True,
                workers=options.workers,
                executor=executor,
                shared=shared,
            )

    return Search(len(space), ratio, space, run)


def begun_well(
    space: Space,
    budget: Budget,
    goal: Goal,
    shared: SharedCosts,
    clock: Clock = time.perf_counter,
) -> Budget:
    """The budget of a search by bounds that begins a large space with a good plan.

    That is the best of a small part of the space, if one is found in a part of the time. shared:
    the costs of the search that follows.
    """
    if len(space) < LARGE_SPACE:
        return budget
    try:
        part = make_space(space.workload, space.cluster, coarse_part(space.constraints))
    except ParplanError:  # Nothing of it is there.
        return budget
    seconds = None if budget.seconds is None else COARSE_SHARE * budget.seconds
    report = run_planner(
        *(DEFAULT_PLANNER, part),
        budget=Budget(seconds=seconds, gap=DEFAULT_GAP),
        goal=goal,
        shared=shared,
        clock=clock,
    ).whole()
    return budget if report.best is None else replace(budget, first=(report.best.plan,))


def _budget(args: argparse.Namespace) -> Budget | None:
    """What `--budget` and `--gap` say.

    By default, a search of everything ends at a small gap, or at a time, and also tries plans that
    are near the best.
    """
    given = None if args.budget is None else budget_of(args.budget)
    gap = None if args.gap is None else args.gap / 100
    if args.space != "everything":
        return given if gap is None else replace(given or Budget(), gap=gap)
    own = given or Budget(seconds=DEFAULT_SECONDS)
    return replace(own, gap=DEFAULT_GAP if gap is None else gap, near=CLOSE)


def _exhaustive(
    asked: SearchRequest, candidates: list[Plan], memory_ratio: float, known: list[Trial]
) -> Report:
    progress, record = asked.progress(), asked.record(memory_ratio)
    kept = record.begin(known)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.end)
        stack.callback(kept.close)
        executor = stack.enter_context(requested_executor(asked.args.dask))
        return exhaustive(
            asked.workload,
            asked.cluster,
            candidates,
            memory_ratio=memory_ratio,
            workers=asked.options.workers,
            progress=progress,
            goal=asked.chosen.goal,
            known=known,
            keep=kept.add,
            executor=executor,
        )


def _in_parts(asked: SearchRequest, space: Space) -> Search:
    """More candidates than memory holds."""
    args, ratio = asked.args, space.constraints.memory_ratio
    if asked.options.detailed_log:
        raise ParplanError(
            f"--detailed-log: says every candidate, of at most {MOST_RECORDED:,}; {args.space} has "
            f"{len(space):,}"
        )
    about = space.constraints, bool(args.executable), asked.chosen.goal.name

    def run() -> Report:
        progress, record = asked.progress(), asked.record(ratio)
        kept = record.parts(len(space), about, args.resume)
        with contextlib.ExitStack() as stack:
            stack.callback(progress.end)
            stack.callback(kept.close)
            executor = stack.enter_context(requested_executor(args.dask))
            return exhaustive_in_parts(
                *(asked.workload, asked.cluster, space),
                memory_ratio=ratio,
                workers=asked.options.workers,
                progress=progress,
                goal=asked.chosen.goal,
                why_not=space.why_not,
                known=kept.known,
                keep=kept.add,
                executor=executor,
            )

    return Search(len(space), ratio, space, run, record=asked.record(ratio))


def _executable(
    workload: Workload, cluster: Cluster, candidates: Sequence[Plan]
) -> tuple[list[Plan], str]:
    """Those that can be executed, and how many cannot, with the most frequent reason.

    Raises `ParplanError` with it when none can.
    """
    why_not = executable_only(workload, cluster.num_accelerators)
    reasons = [why_not(plan) for plan in candidates]
    kept = [plan for plan, reason in zip(candidates, reasons, strict=True) if not reason]
    refused = Counter(reason for reason in reasons if reason).most_common(1)
    if not refused:
        return kept, ""
    said = (
        f"{len(candidates) - len(kept)} of {len(candidates)} candidates cannot be executed, most "
        f"often because: {refused[0][0]}"
    )
    if not kept:
        raise ParplanError(f"--executable: {said}")
    return kept, said
