"""What the page asks for: a job, its search, and the same with other sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parplan._strict import read_json
from parplan.errors import ParplanError
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.explorer.candidates import candidate_table, read_trials
from parplan.experiments.explorer.details import details
from parplan.experiments.landscape.machine import changed
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.checks import check_candidates, check_request
from parplan.planners.spaces.make import full_candidates
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.workload import Workload

MEMORY_RATIO = 0.8
FACTORS = ("network_bandwidth", "node_bandwidth", "compute", "memory")
"""Parts of the machine that sliders scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploredJob:
    """A job with the candidates of its search."""

    workload: Workload
    cluster: Cluster
    trials: tuple[Trial, ...]
    memory_ratio: float = MEMORY_RATIO

    def table(self) -> dict[str, Any]:
        """The candidates as the page has them."""
        return candidate_table(self.workload, self.cluster, self.trials, self.memory_ratio)

    def of_plan(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The details of a plan, from its fields that are not the usual ones."""
        return self.details_of(_plan_of(fields))

    def details_of(self, plan: Plan) -> dict[str, Any]:
        """The details of a plan."""
        return details(self.workload, self.cluster, plan)

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
            if factor != 1:
                cluster = changed(cluster, name, float(factor))
        return replace(self, workload=workload, cluster=cluster, trials=())


def searched(
    workload: Workload, cluster: Cluster, memory_ratio: float = MEMORY_RATIO
) -> ExploredJob:
    """The job with every candidate of the full space."""
    options = Options(memory_ratio_percent=100 * memory_ratio)
    check_request(workload, cluster, options)
    candidates = full_candidates(workload, cluster, options)
    check_candidates(workload, cluster, candidates)
    found = exhaustive(workload, cluster, candidates, memory_ratio=memory_ratio, workers=1)
    return ExploredJob(
        workload=workload,
        cluster=cluster,
        trials=found.trials,
        memory_ratio=memory_ratio,
    )


def from_folder(folder: Path) -> ExploredJob:
    """The job and candidates of an output folder of `parplan plan`.

    Raises `ParplanError` for any other folder.
    """
    if not folder.is_dir():
        raise ParplanError(f"{folder}: is not a folder")
    path, trials = folder / "plan.json", folder / "trials.csv"
    if not path.is_file() or not trials.is_file():
        raise ParplanError(f"{folder}: holds no results of parplan plan (plan.json and trials.csv)")
    _, workload, name = read_plan(path)
    ratio = MEMORY_RATIO
    summary = folder / "summary.json"
    if summary.is_file():
        table = read_json(summary)
        memory = table.get("memory") if isinstance(table, dict) else None
        share = memory.get("limit_share") if isinstance(memory, dict) else None
        ratio = share if isinstance(share, float) and 0 < share <= 1 else ratio
    return ExploredJob(
        workload=workload,
        cluster=requested_cluster(name),
        trials=tuple(read_trials(trials)),
        memory_ratio=ratio,
    )


def _plan_of(fields: Mapping[str, Any]) -> Plan:
    return Plan.from_json({**Plan().to_json(), **fields})


def _whole(sizes: Mapping[str, Any], name: str, usual: int) -> int:
    value = sizes.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
        raise ParplanError(f"{name}: expected a whole number of at least 1")
    return value
