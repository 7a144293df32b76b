"""`parplan plan`: search for the fastest plan, log as Advanced Parallelization does, explain.

AP's log goes to stdout, line for line. Progress and what parplan adds go to stderr.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parplan._files import check_writable, write_whole
from parplan.experiments.arguments.dask import add_executor_argument
from parplan.experiments.arguments.objective import (
    FEWEST,
    add_objective_arguments,
    chosen_objective,
    cluster_names,
)
from parplan.experiments.arguments.space import plan_space_name
from parplan.experiments.arguments.workload import (
    add_workload_arguments,
    batches,
    requested_cluster,
    requested_workload,
)
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.new_folder import digest, says_finished
from parplan.experiments.planning.decision import Decision
from parplan.experiments.planning.explain import PlanChoice
from parplan.experiments.planning.fewest import fewest
from parplan.experiments.planning.fidelity import add_fidelity_arguments, check_arguments, checked
from parplan.experiments.planning.files import write_report
from parplan.experiments.planning.mixed import is_mixed, run_mixed
from parplan.experiments.planning.record import NAME
from parplan.experiments.planning.search import Search, SearchRequest, search_of
from parplan.hardware.network.cluster import Cluster
from parplan.planners.algorithms.exact.split import improve_split
from parplan.planners.ap import log as ap_log
from parplan.planners.ap.candidates import DEFAULT_VERSION, SETTINGS, one_batch
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.ways_to_fit import ways_to_fit
from parplan.planners.search.report import Report
from parplan.planners.search.run import BUILT_IN, SearchReport
from parplan.planners.spaces.checks import check_request
from parplan.planners.spaces.options import Options, settings_from_environment
from parplan.sim.memory.peak import GB
from parplan.sim.workload import Workload

EXPECTED = ("trials.csv", "landscape.png", "plan.json", "timeline.json", "gantt.png", "why.csv")
"""Files that a search writes."""

MOST_WAYS = 4
"""Ways to make a plan fit that are said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan plan`."""
    add_workload_arguments(parser)
    parser.add_argument(
        "--space",
        type=plan_space_name,
        default="ap",
        help="search space. ap: the candidates of Advanced Parallelization (default); full: all "
        "combinations of degrees, schedules, recomputation and ZeRO; everything: also uneven "
        "stages, context and expert parallelism, sharding groups, sets of recomputed operations "
        "and offloading, by branch and bound; or a TOML file of constraints",
    )
    parser.add_argument(
        "--between",
        metavar="GB/s:us",
        help="bandwidth and latency of the link between the clusters of --cluster A+B, for example "
        "25:5 (default: the slower of their own links)",
    )
    parser.add_argument(
        "--ap-version",
        choices=tuple(SETTINGS),
        default=DEFAULT_VERSION,
        help="AP release whose candidate rule and log format are used (default %(default)s)",
    )
    parser.add_argument(
        "--executable",
        action="store_true",
        help="search only plans that parplan execute can run on stock PyTorch",
    )
    _add_planner(parser)
    add_objective_arguments(parser)
    add_fidelity_arguments(parser)
    _add_options(parser)
    parser.add_argument(
        "--why",
        action="store_true",
        help="also print the cost of changing each dimension of the chosen plan (why.csv)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/plan"),
        help="output folder (default %(default)s)",
    )


def _add_planner(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("planner")
    group.add_argument(
        "--planner",
        metavar="NAME",
        help=f"{', '.join(BUILT_IN)}, an installed one, or module:function (default: exhaustive)",
    )
    group.add_argument(
        "--budget",
        metavar="N",
        help="search budget: a number of evaluations, or seconds such as 30s (default: the number "
        "of plans)",
    )
    group.add_argument(
        "--split-layers",
        action="store_true",
        help="finally move layers between the stages of the chosen plan where that is faster",
    )
    group.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue a search that was interrupted or used up its budget (search.jsonl)",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "search options", "auto where not given; PARPLAN_* variables set the last three as well"
    )
    group.add_argument("--num-stages", type=_auto_or_int, help="maximum number of pipeline stages")
    group.add_argument(
        "--num-micro-batches", type=_auto_or_int, help="micro-batches per pipeline and step"
    )
    for name in ("activation-recomputation", "distribute-parameter"):
        group.add_argument(f"--{name}", type=_auto_or_bool, metavar="{auto,true,false}")
    group.add_argument(
        "--no-pipeline-parallel", action="store_true", help="search no pipeline parallelism"
    )
    group.add_argument(
        "--memory-ratio",
        type=float,
        dest="memory_ratio_percent",
        metavar="PERCENT",
        help="share of each device's memory that a plan may use (default 80)",
    )
    group.add_argument(
        "--workers", type=int, help="maximum number of worker processes (default 16)"
    )
    add_executor_argument(group)
    group.add_argument(
        "--detailed-log",
        type=int,
        choices=(0, 1, 2),
        help=f"1: also print every candidate; 2: write them to {ap_log.DETAIL_NAME}",
    )


def _auto_or_int(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto or a number, got {text!r}") from None


def _auto_or_bool(text: str) -> bool | str:
    words: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"expected auto, true or false, got {text!r}")
    return words[text.lower()]


def options_of(args: argparse.Namespace) -> Options:
    """The options on the command line, else in the environment, else the defaults."""
    given = settings_from_environment() | {
        name: value
        for name in (
            *("num_stages", "num_micro_batches", "activation_recomputation"),
            *("distribute_parameter", "memory_ratio_percent", "workers", "detailed_log"),
        )
        if (value := getattr(args, name)) is not None
    }
    return Options(
        pipeline_parallel=not args.no_pipeline_parallel,
        mixed_precision=not args.no_mixed_precision,
        **given,
    )


def run(args: argparse.Namespace) -> int:
    """Plan, print, write; 1 if nothing fits."""
    options = options_of(args)
    if is_mixed(args):
        return run_mixed(args, options.memory_ratio)
    batch, vary = one_batch(batches(args.global_batch))
    clusters = [requested_cluster(n, args.profile, args.framework) for n in cluster_names(args)]
    workload = requested_workload(args, batch)

    def asked_of(cluster: Cluster) -> SearchRequest:
        check_request(workload, cluster, options)
        check_arguments(args, cluster)
        chosen = chosen_objective(args, workload, cluster)
        return SearchRequest(args, workload, cluster, options, vary, chosen)

    cluster: Cluster | None = clusters[0]
    if args.objective == FEWEST:
        # Searches keep their records there.
        OutputFolder(args.output, args.argv)
        cluster = fewest(
            clusters,
            args,
            lambda cluster: asked_of(cluster).chosen.setting,
            lambda cluster: search_of(asked_of(cluster)).run(),
        )
    if cluster is None:
        _note("no cluster of these is fast enough")
        return 1
    asked = asked_of(cluster)
    if args.resume and says_finished(args.output, _inputs(args), asked.depends_on()):
        return 0
    search = search_of(asked)
    output = OutputFolder(args.output, args.argv, EXPECTED)
    check_writable(Path.cwd())
    # A search that finds nothing leaves no choice of an earlier one.
    Path(ap_log.DUMP_NAME).unlink(missing_ok=True)
    return _searched(asked, search, output)


def _searched(asked: SearchRequest, search: Search, output: OutputFolder) -> int:
    args, workload, cluster, options = asked[:4]
    if search.left_out:
        _note(search.left_out)
    _info(ap_log.GOT_DATABASES)
    if asked.vary:
        _say("warning", ap_log.batches_vary(batches(args.global_batch)))
    _info(ap_log.num_candidates(search.num_candidates))
    _info(ap_log.COMPILE_START)
    report = search.run()
    if isinstance(report, SearchReport):
        output.files.append(NAME)
    _log_report(report)
    _log_details(report, options.detailed_log, args.ap_version)
    write_report(output, report, f"{workload.model.name} on {cluster.name}")
    code = _say_how_it_ended(report)
    if report.best is None:
        if code == 0:
            code = _nothing_fits(output, report, asked, search.memory_ratio)
            _forget(search, report)
        return code
    best = checked(args, output, workload, cluster, report.trials, _note) or report.best
    if args.split_layers:
        best = with_split_layers(workload, cluster, best, search.memory_ratio, _note)
    choice = PlanChoice(
        workload=workload,
        cluster=cluster,
        best=best,
        trials=report.trials,
        memory_ratio=search.memory_ratio,
        space=search.space,
    )
    _finish(output, choice, asked)
    _forget(search, report)
    return code


def _forget(search: Search, report: Report) -> None:
    """The results are on the disk: the record of a whole search is no longer needed."""
    if search.record is not None and report.stopped == "finished":
        search.record.remove()


def with_split_layers(
    workload: Workload,
    cluster: Cluster,
    best: Trial,
    memory_ratio: float,
    note: Callable[[str], None],
) -> Trial:
    """The chosen plan with its layers split over the stages as well as possible.

    `note`: gets the line that says what that gains.
    """
    found = improve_split(workload, cluster, best.plan, memory_ratio=memory_ratio)
    if found.step_s is None or best.step_s is None or found.step_s >= best.step_s:
        note("layers of the stages: an even split is the fastest that was found")
        return best
    faster = 1 - found.step_s / best.step_s
    note(f"uneven stages: {faster:.1%} less time than an even split")
    return found


def _say_how_it_ended(report: Report) -> int:
    """What a planner did, and the exit code that it deserves."""
    if report.stopped == "interrupted":
        _note("interrupted; --resume goes on from here")
    if report.num_tried is not None:
        _note(
            f"{report.num_tried:,} candidates were tried, more than are held; trials.csv, why.csv "
            f"and what is said of close plans are of {len(report.trials):,}: the best, and the "
            "best of each kind of plan, number of stages and size of a micro-batch"
        )
    if not isinstance(report, SearchReport):
        return 130 if report.stopped == "interrupted" else 0
    bounds = f", {report.num_bounds} bounds" if report.num_bounds else ""
    proof = ""
    if report.proven:
        better = "faster" if report.goal is STEP_TIME else "better"
        proof = f"; proven: no plan of the space is {better} (gap 0%)"
        if report.best is None:
            proof = "; proven: no plan of the space fits"
    elif report.gap is not None:
        proof = f"; not proven: at most {report.gap:.1%} can be gained (gap)"
    _note(
        f"planner {report.planner}: {report.num_asked} evaluations{bounds} of "
        f"{report.space_size} plans; {report.stopped}{proof}"
    )
    if report.failed:
        return 1
    return 130 if report.stopped == "interrupted" else 0


def _log_report(report: Report) -> None:
    _info(ap_log.compile_time(report.compile_s))
    _info(ap_log.COMPILE_FINISHED)
    _info(ap_log.num_possible(report.num_possible))
    _info(ap_log.SELECT_START)
    _info(ap_log.cost_time(report.cost_s))
    _info(ap_log.SELECT_FINISHED)


def _log_details(report: Report, level: int, version: str) -> None:
    lines = [_detail(i, trial, version) for i, trial in enumerate(report.trials, start=1)]
    if level == 1:
        for line in lines:
            _info(line)
    elif level == 2:
        write_whole(Path(ap_log.DETAIL_NAME), "".join(f"{line}\n" for line in lines).encode())


def _detail(number: int, trial: Trial, version: str) -> str:
    line = f"candidate {number}: {ap_log.selected_line(trial.plan, version)}: "
    if trial.step_s is None:
        return f"{line}not possible: {trial.reason}"
    return f"{line}{max(trial.memory_bytes) / GB:.1f} GB, {trial.step_s:.4g} s"


def _finish(output: OutputFolder, choice: PlanChoice, asked: SearchRequest) -> None:
    args = asked.args
    line = ap_log.selected_line(choice.best.plan, args.ap_version)
    decision = Decision(choice=choice, chosen=asked.chosen)
    front = decision.write(output, pareto=args.pareto)
    write_whole(Path(ap_log.DUMP_NAME), f"{line}\n".encode())
    output.write_manifest({**_inputs(args), "depends_on": digest(asked.depends_on())})
    _info(ap_log.SELECTED)
    _info(line)
    _info("train: true")
    for line in decision.lines(front=front, why=args.why):
        _note(line)
    _note(f"results: {output.path}/ ({', '.join(sorted(output.files))}); {ap_log.DUMP_NAME}")
    if args.space == "ap":
        _note("AP's own candidates were searched; --space full searches parplan's wider space")


def _nothing_fits(
    output: OutputFolder, report: Report, asked: SearchRequest, memory_ratio: float
) -> int:
    output.write_manifest({**_inputs(asked.args), "depends_on": digest(asked.depends_on())})
    closest = report.closest
    why = f"; the closest: {closest.reason}" if closest else ""
    _note(f"no candidate is possible{why}")
    if closest:
        ways = ways_to_fit(asked.workload, asked.cluster, closest, memory_ratio)
        said = "; or ".join(way.change for way in ways[:MOST_WAYS])
        _note(f"it would fit with {said}" if said else "nothing that was tried makes it fit")
    _note(f"every candidate and its reason: {output.path / 'trials.csv'}")
    return 1


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    given = {k: v for k, v in vars(args).items() if k not in ("argv", "command")}
    return given | {"output": str(args.output)}


def _info(line: str) -> None:
    _say("info", line)


def _say(level: str, line: str) -> None:
    print(f"[{level}] {line}", flush=True)


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr)
