"""`parplan compare-planners`: the same space and budget for several planners, several seeds."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from parplan.errors import ParplanError
from parplan.experiments.arguments.dask import (
    add_sweep_arguments,
    check_workers,
    requested_executor,
)
from parplan.experiments.arguments.space import requested_space, space_name
from parplan.experiments.arguments.workload import (
    add_workload_arguments,
    batches,
    requested_cluster,
    requested_precision,
    requested_workload,
)
from parplan.experiments.benchmarks.compare_planners import compare, rows, table
from parplan.experiments.benchmarks.compare_planners_figure import regret_figure
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.planners.ap.candidates import one_batch
from parplan.planners.search.evaluator import budget_of
from parplan.planners.search.run import BUILT_IN, find_planner
from parplan.planners.spaces.checks import check_request
from parplan.planners.spaces.options import Options


def _left_out() -> set[str]:
    """Planners that are compared only where they are named: what they need may be missing."""
    return {"exhaustive"} | ({"tpe"} if find_spec("optuna") is None else set())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan compare-planners`."""
    add_workload_arguments(parser)
    parser.add_argument(
        "--space",
        type=space_name,
        default="full",
        help="search space: full (default), everything, or a TOML file of constraints",
    )
    parser.add_argument(
        "--planners",
        metavar="NAMES",
        default=",".join(name for name in BUILT_IN if name not in _left_out()),
        help="planners, separated by commas (default %(default)s)",
    )
    parser.add_argument(
        "--budget",
        metavar="N",
        default="300",
        help="budget of each search: evaluations, or seconds such as 30s (default %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="number of random seeds (default %(default)s)"
    )
    add_sweep_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/compare-planners"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Search, print, write; 1 if nothing fits or a planner fails."""
    batch, _ = one_batch(batches(args.global_batch))
    cluster = requested_cluster(args.cluster, args.profile, args.software)
    workload = requested_workload(args, batch)
    options = Options(mixed_precision=requested_precision(args) != "fp32")
    check_request(workload, cluster, options)
    planners, budget = args.planners.split(","), budget_of(args.budget)
    for planner in planners:
        find_planner(planner)
    check_workers(args)
    if args.seeds < 1:
        raise ParplanError(f"--seeds: at least 1, got {args.seeds}")
    space = requested_space(args, workload, cluster, options)
    output = OutputFolder(args.output, args.argv)
    # Searches with a limit of time would disturb each other on one machine.
    workers = args.workers if budget.seconds is None else 1
    with requested_executor(args.dask) as executor:
        found = compare(
            *(space, planners, budget, range(args.seeds), ProgressLine(), workers, executor)
        )
    if found is None:
        print("parplan: no plan of the space fits in memory", file=sys.stderr)
        return 1
    title = f"{workload.model.name} on {cluster.name}: {len(space):,} plans"
    print(f"{title}; the fastest, proven: {found.optimum_s:.4g} s. Medians of {args.seeds} seeds.")
    for line in table(found):
        print(line)
    output.write_csv("searches.csv", rows(found))
    output.write_figure("regret.png", lambda: regret_figure(found, title))
    output.write_manifest({k: str(v) for k, v in vars(args).items() if k != "argv"}, seed=0)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    failed = [report for report in found.reports if report.failed]
    for report in failed:
        print(f"parplan: {report.planner}: {report.stopped}", file=sys.stderr)
    return 1 if failed else 0
