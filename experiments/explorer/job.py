"""What the page asks for: a job, its search, and the same with other sizes."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parplan._files import is_file, is_folder
from parplan._strict import read_json
from parplan.errors import ParplanError
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.explorer.candidates import candidate_table, read_trials
from parplan.experiments.explorer.details import details
from parplan.experiments.explorer.sample import sampled
from parplan.experiments.landscape.machine import changed
from parplan.experiments.planning.search import DEFAULT_GAP, DEFAULT_PLANNER
from parplan.experiments.planning.summary import search_table
from parplan.experiments.planning.summary_text import search_text
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.why import CLOSE
from parplan.planners.search.budget import Budget
from parplan.planners.search.report import Report
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.everything import everything, with_options
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.workload import Workload

MEMORY_RATIO = 0.8
FACTORS = ("network_bandwidth", "node_bandwidth", "compute", "memory")
"""Parts of the machine that sliders scale."""

LEAST_FACTOR = 0.001
"""By which they may be scaled; the most is its reciprocal."""


NARROWING = (
    *("num_stages", "num_micro_batches", "activation_recomputation", "distribute_parameter"),
)
"""Options of `parplan plan` that leave plans out of a search."""

SEARCH_SECONDS = 60.0
"""A search of everything ends then, and says what can be gained at most."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploredJob:
    """A job with the candidates of its search."""

    workload: Workload
    cluster: Cluster
    trials: tuple[Trial, ...]
    memory_ratio: float = MEMORY_RATIO
    search: str = ""
    """What was searched and proven, in words."""
    is_whole: bool = True
    """Whether nothing is left to try: by `searched`, the space of everything is."""
    options: Options | None = None
    """Of a folder whose search tried few of its plans: the options that it was narrowed by."""

    def table(self) -> dict[str, Any]:
        """The candidates as the page has them."""
        found = candidate_table(self.workload, self.cluster, self.trials, self.memory_ratio)
        return {
            **found,
            "search": self.search,
            "is_whole": self.is_whole,
            "filling": self.options is not None,
        }

    def of_plan(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The details of a plan, from its fields that are not the usual ones."""
        return self.details_of(_plan_of(fields))

    def details_of(self, plan: Plan) -> dict[str, Any]:
        """The details of a plan."""
        return details(self.workload, self.cluster, plan)

    def improved(
        self, seconds: float = SEARCH_SECONDS, clock: Clock = time.perf_counter
    ) -> "ExploredJob":
        """The same with the candidates that are still to come, after those that are there.

        Of a folder: those beside the few that its search by bounds tried. Else those of a search of
        everything, as `parplan plan` does it by default, which starts from the best that is there.
        `clock`: time by which the seconds are counted.
        """
        if self.options is not None:
            return self._filled(self.options)
        timed = [trial for trial in self.trials if trial.step_s is not None]
        first = tuple(t.plan for t in sorted(timed, key=lambda t: t.step_s or 0.0)[:1])
        options = Options(memory_ratio_percent=100 * self.memory_ratio)
        budget = Budget(seconds=seconds, gap=DEFAULT_GAP, near=CLOSE, first=first)

        def search(offloading: bool) -> Report:
            allowed = everything(self.workload, self.cluster, offloading=offloading)
            space = make_space(self.workload, self.cluster, with_options(allowed, options))
            return run_planner(DEFAULT_PLANNER, space, budget=budget, with_gap=True, clock=clock)

        report = search(offloading=False)
        if report.best is None and report.stopped == "finished":
            report = search(offloading=True)
        size = getattr(report, "space_size", len(report.trials))
        said = search_text(search_table(report, size), found=report.best is not None)
        return self._with(report.trials, f"{self.search}; then {said}" if self.search else said)

    def _filled(self, options: Options) -> "ExploredJob":
        """With candidates that the search by bounds, which ruled them out, did not try."""
        try:
            trials, said = sampled(self.workload, self.cluster, options)
        except ParplanError:
            return replace(self, is_whole=True)
        return self._with(trials, f"{self.search}. Beside it, for this page: {said}")

    def _with(self, trials: Iterable[Trial], search: str) -> "ExploredJob":
        known = {trial.plan for trial in self.trials}
        return replace(
            self,
            trials=(*self.trials, *(t for t in trials if t.plan not in known)),
            search=search,
            is_whole=True,
        )

    def asked(self, sizes: Mapping[str, Any]) -> "ExploredJob":
        """The same with other sizes, searched anew; raises `ParplanError` as `resized` does."""
        found = self.resized(sizes)
        return searched(found.workload, found.cluster, self.memory_ratio)

    def resized(self, sizes: Mapping[str, Any]) -> "ExploredJob":
        """The same with other sizes, without candidates.

        `sizes`: `seq_len`, `global_batch`, `num_accelerators`, and factors of `FACTORS`. Raises
        `ParplanError` for what cannot be asked.
        """
        unknown = sizes.keys() - {"seq_len", "global_batch", "num_accelerators", *FACTORS}
        if unknown:
            raise ParplanError(f"unknown size {sorted(unknown)[0]!r}")
        workload = replace(
            self.workload,
            seq_len=_whole(sizes, "seq_len", self.workload.seq_len),
            global_batch=_whole(sizes, "global_batch", self.workload.global_batch),
        )
        count = _whole(sizes, "num_accelerators", self.cluster.num_accelerators)
        cluster = self.cluster
        if count != cluster.num_accelerators:
            cluster = cluster_preset(f"{count}x{cluster.accelerator.name}")
        for name in FACTORS:
            factor = sizes.get(name, 1)
            if not isinstance(factor, int | float) or isinstance(factor, bool):
                raise ParplanError(f"{name}: expected a number")
            if not LEAST_FACTOR <= factor <= 1 / LEAST_FACTOR:
                raise ParplanError(
                    f"{name}: expected {LEAST_FACTOR:g} to {1 / LEAST_FACTOR:g}, got {factor}"
                )
            if factor != 1:
                cluster = changed(cluster, name, float(factor))
        return replace(self, workload=workload, cluster=cluster, trials=())


def searched(
    workload: Workload, cluster: Cluster, memory_ratio: float = MEMORY_RATIO
) -> ExploredJob:
    """The job with candidates of the usual dimensions, to be `improved`."""
    options = Options(memory_ratio_percent=100 * memory_ratio)
    trials, said = sampled(workload, cluster, options)
    return ExploredJob(
        workload=workload,
        cluster=cluster,
        trials=tuple(trials),
        memory_ratio=memory_ratio,
        search=said,
        is_whole=False,
    )


def from_folder(folder: Path) -> ExploredJob:
    """The job and candidates of an output folder of `parplan plan`.

    Raises `ParplanError` for any other folder.
    """
    path, trials = folder / "plan.json", folder / "trials.csv"
    if not is_folder(folder):
        raise ParplanError(f"{folder}: is not a folder")
    if not (is_file(path) and is_file(trials)):
        raise ParplanError(f"{folder}: holds no results of parplan plan (plan.json and trials.csv)")
    _, workload, name = read_plan(path)
    ratio, search, options = MEMORY_RATIO, "", None
    found = tuple(read_trials(trials))
    summary = folder / "summary.json"
    if is_file(summary):
        table = read_json(summary)
        memory = table.get("memory") if isinstance(table, dict) else None
        share = memory.get("limit_share") if isinstance(memory, dict) else None
        ratio = share if isinstance(share, float) and 0 < share <= 1 else ratio
        search = _search_said(table)
        options = _narrowed_by(folder, table, len(found), ratio)
    return ExploredJob(
        workload=workload,
        cluster=requested_cluster(name),
        trials=found,
        memory_ratio=ratio,
        search=search,
        is_whole=options is None,
        options=options,
    )


def _narrowed_by(folder: Path, summary: Any, tried: int, memory_ratio: float) -> Options | None:
    """The options of a default search that tried few plans; None where nothing is to be filled."""
    manifest = folder / "manifest.json"
    table: Any = read_json(manifest) if manifest.is_file() else None
    try:
        inputs, size = table["inputs"], summary["search"]["candidates"]
        if inputs["space"] != "everything" or inputs["executable"] or size <= tried:
            return None
        given = {name: inputs[name] for name in NARROWING if inputs[name] is not None}
        return Options(
            **given,
            pipeline_parallel=not inputs["no_pipeline_parallel"],
            memory_ratio_percent=100 * memory_ratio,
        )
    except (KeyError, TypeError, ParplanError):
        return None


def _search_said(summary: Any) -> str:
    """What a summary says of its search; nothing where it was changed by hand."""
    try:
        return search_text(summary["search"])
    except (KeyError, TypeError, ValueError):
        return ""


def _plan_of(fields: Mapping[str, Any]) -> Plan:
    return Plan.from_json({**Plan().to_json(), **fields})


def _whole(sizes: Mapping[str, Any], name: str, usual: int) -> int:
    value = sizes.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
        raise ParplanError(f"{name}: expected a whole number of at least 1")
    return value
