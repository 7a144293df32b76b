"""`parplan plan`: search for the fastest plan, explain it, write what was found to a folder.

The summary goes to stdout, progress and warnings go to stderr. Where the log of Advanced
Parallelization is wanted, stdout has it line for line, and the summary goes to stderr.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parplan.errors import printable, short
from parplan.experiments.arguments.dask import add_executor_argument
from parplan.experiments.arguments.numbers import whole
from parplan.experiments.arguments.objective import (
    FEWEST,
    add_objective_arguments,
    cluster_names,
)
from parplan.experiments.arguments.space import space_name
from parplan.experiments.arguments.voice import add_voice_arguments, clean, print_json, print_lines
from parplan.experiments.arguments.workload import (
    add_workload_arguments,
    batches,
    requested_cluster,
    requested_precision,
    requested_workload,
)
from parplan.experiments.output.folder import MANIFEST, OutputFolder, own_files
from parplan.experiments.output.new_folder import digest, says_finished
from parplan.experiments.output.terminal import style_of
from parplan.experiments.planning.ap.output import ApOutput
from parplan.experiments.planning.decision import Decision
from parplan.experiments.planning.explain import PlanChoice
from parplan.experiments.planning.fewest import fewest
from parplan.experiments.planning.fidelity import add_fidelity_arguments, check_arguments, checked
from parplan.experiments.planning.files import write_report
from parplan.experiments.planning.mixed import is_mixed, run_mixed
from parplan.experiments.planning.record import NAME
from parplan.experiments.planning.search import (
    DEFAULT_GAP,
    DEFAULT_SECONDS,
    Search,
    SearchRequest,
    both_stacks,
    request_of,
    search_of,
)
from parplan.experiments.planning.summary import nothing_found, search_table, summary_of
from parplan.experiments.planning.summary_text import search_text, summary_lines
from parplan.hardware.network.cluster import Cluster
from parplan.planners.algorithms.exact.split import improve_split
from parplan.planners.ap import log as ap_log
from parplan.planners.ap.candidates import DEFAULT_VERSION, SETTINGS, one_batch
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.ways_to_fit import ways_to_fit
from parplan.planners.search.report import Report
from parplan.planners.search.run import BUILT_IN, SearchReport
from parplan.planners.spaces.checks import check_request
from parplan.planners.spaces.options import Options, settings_from_environment
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
        type=space_name,
        help="search space. everything (default): all that applies to the job, by branch and "
        "bound, with uneven stages, context and expert parallelism, sharding groups and sets of "
        "recomputed operations; full: tensor, pipeline and data parallelism, recomputation and "
        "ZeRO, every plan tried; ap: the candidates of Advanced Parallelization; or a TOML file "
        "of constraints",
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
        "--ap-log",
        action="store_true",
        help="print AP's log, and write its choice to the current folder, as --space ap does; the "
        "summary goes to stderr",
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
        *("-v", "--verbose", "--why"),
        dest="why",
        action="store_true",
        help="also print the cost of changing each dimension of the chosen plan (why.csv)",
    )
    add_voice_arguments(parser)
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
        help=f"{', '.join(BUILT_IN)}, an installed one, or module:function (default: "
        "branch-and-bound for everything, exhaustive for other spaces)",
    )
    group.add_argument(
        "--budget",
        metavar="N",
        help="search budget: a number of evaluations, or seconds such as 30s (default: the number "
        f"of plans; {DEFAULT_SECONDS:.0f}s for everything)",
    )
    group.add_argument(
        "--gap",
        type=float,
        metavar="PERCENT",
        help="end a long search by bounds when at most this much can be gained (default: "
        f"{100 * DEFAULT_GAP:.0f} for everything, 0 for other spaces)",
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
        return text if text == "auto" else whole(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected auto or a number, got {short(text)}") from None


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
        mixed_precision=requested_precision(args) != "fp32",
        **given,
    )


def run(args: argparse.Namespace) -> int:
    """Plan, print, write; 1 if nothing fits."""
    options = options_of(args)
    if is_mixed(args):
        return run_mixed(args, options.memory_ratio)
    batch, vary = one_batch(batches(args.global_batch))
    clusters = [requested_cluster(n, args.profile, args.software) for n in cluster_names(args)]
    workload = requested_workload(args, batch)

    def asked_of(cluster: Cluster) -> SearchRequest:
        check_request(workload, cluster, options)
        check_arguments(args, cluster)
        return request_of(args, workload, cluster, options, vary)

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
        if NAME not in own_files(args.output):
            asked.record(0.0).remove_left(args.output / MANIFEST)
        return 0
    search = search_of(asked)
    output = OutputFolder(args.output, args.argv, EXPECTED)
    return _searched(asked, search, output)


def _searched(asked: SearchRequest, search: Search, output: OutputFolder) -> int:
    args, workload, cluster, options = asked[:4]
    note = _silent if args.quiet or args.json else _note
    if search.left_out:
        note(search.left_out)
    ap = ApOutput(wanted=_wants_ap_log(args), printed=not args.json, version=args.ap_version)
    ap.start(search.num_candidates, batches(args.global_batch) if asked.vary else None)
    report = search.run()
    if isinstance(report, SearchReport):
        output.files.append(NAME)
    both = both_stacks(asked, report.trials, search.memory_ratio)
    num_possible = report.num_possible if both is None else both.num_possible
    ap.searched(report, num_possible, options.detailed_log)
    write_report(output, report, f"{workload.model.name} on {cluster.name}", both)
    if isinstance(report, SearchReport) and report.space is not search.space:
        note("nothing fits without offloading to the host, which was searched as well")
    code = _say_how_it_ended(report, note)
    if report.best is None:
        if code == 0:
            code = _nothing_fits(output, report, asked, search)
            _forget(search, report)
        return code
    best = checked(args, output, workload, cluster, report.trials, note) or report.best
    if args.split_layers:
        best = with_split_layers(workload, cluster, best, search.memory_ratio, note)
    choice = PlanChoice(
        workload=workload,
        cluster=cluster,
        best=best,
        trials=report.trials,
        memory_ratio=search.memory_ratio,
        space=report.space if isinstance(report, SearchReport) else search.space,
        untried_from=report.untried_s,
    )
    decision = Decision(
        choice=choice,
        chosen=asked.chosen,
        report=report,
        num_candidates=search.num_of(report),
        both=both,
    )
    ap.selected(best.plan)
    _finish(output, decision, asked, note)
    _forget(search, report)
    return code


def _wants_ap_log(args: argparse.Namespace) -> bool:
    return bool(args.ap_log or args.space == "ap")


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


def _say_how_it_ended(report: Report, note: Callable[[str], None]) -> int:
    """What the summary does not say of a search, and the exit code that it deserves."""
    if report.stopped == "interrupted":
        note("interrupted; --resume goes on from here")
    if report.num_tried is not None:
        note(
            f"{report.num_tried:,} candidates were tried, more than are held; trials.csv, why.csv "
            f"and what is said of close plans are of {len(report.trials):,}: the best, and the "
            "best of each kind of plan, number of stages and size of a micro-batch"
        )
    if isinstance(report, SearchReport):
        if report.failed or report.best is None:
            _note(f"planner {search_text(search_table(report, report.space_size), found=False)}")
        if report.failed:
            return 1
    return 130 if report.stopped == "interrupted" else 0


def _finish(
    output: OutputFolder,
    decision: Decision,
    asked: SearchRequest,
    note: Callable[[str], None],
) -> None:
    args = asked.args
    front = decision.write(output, pareto=args.pareto)
    table = summary_of(decision)
    output.write_json("summary.json", table)
    output.write_manifest(_manifest(asked, decision.report))
    if args.json:
        print_json({**table, "folder": str(output.path), "files": sorted(output.files)})
        return
    on_stderr = _wants_ap_log(args)
    style = style_of(sys.stderr if on_stderr else sys.stdout)
    lines = list(summary_lines(clean(table), style, quiet=args.quiet))
    if front:
        lines.append(front)
    if args.why:
        lines += ["", "single changes and close plans", *map(printable, decision.details())]
    print_lines(lines, style, on_stderr=on_stderr)
    note(f"results: {output.path}/ ({', '.join(sorted(output.files))})")


def _nothing_fits(
    output: OutputFolder, report: Report, asked: SearchRequest, search: Search
) -> int:
    output.remove_earlier(keep=NAME)
    output.write_manifest(_manifest(asked, report))
    closest = report.closest
    ways: list[str] = []
    if closest:
        found = ways_to_fit(asked.workload, asked.cluster, closest, search.memory_ratio)
        ways = [way.change for way in found]
    if asked.args.json:
        print_json(nothing_found(report, search.num_of(report), ways))
        return 1
    _note(report.nothing_fits())
    if closest:
        said = "; or ".join(ways[:MOST_WAYS])
        _note(f"it would fit with {said}" if said else "nothing that was tried makes it fit")
    _note(f"every candidate and its reason: {output.path / 'trials.csv'}")
    return 1


def _manifest(asked: SearchRequest, report: Report) -> dict[str, Any]:
    """The inputs of the results; one that was interrupted, or failed, says so: it is not whole."""
    whole = {**_inputs(asked.args), "depends_on": digest(asked.depends_on())}
    kind = report.stopped.partition(":")[0]
    return whole | ({kind: True} if kind in ("interrupted", "failed") else {})


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    given = {k: v for k, v in vars(args).items() if k not in ("argv", "command")}
    return given | {"output": str(args.output)}


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr)


def _silent(line: str) -> None:
    """For `--quiet` and `--json`."""
