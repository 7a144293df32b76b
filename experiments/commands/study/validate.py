"""`parplan validate`: predictions beside what others measured."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from parplan._files import check_writable, write_whole
from parplan.errors import ParplanError
from parplan.experiments.accuracy.figure import figure
from parplan.experiments.accuracy.kinds import kinds
from parplan.experiments.accuracy.page import COMMAND, KINDS, LEAVE_ONE_OUT, WORST, written_page
from parplan.experiments.accuracy.table import FITTED, row, summary, summary_rows
from parplan.experiments.accuracy.worst import worst
from parplan.experiments.arguments.dask import add_executor_argument, requested_executor
from parplan.experiments.cases.ap_logs import read_logs
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.fit import SOURCES, fit_frameworks, frameworks_toml
from parplan.experiments.cases.held_out import CALIBRATION, VALIDATION, refuse_held_out
from parplan.experiments.cases.read import Case, read_cases
from parplan.experiments.cases.residuals import residuals_of, residuals_toml
from parplan.experiments.cases.stack import check_stacks
from parplan.experiments.commands.study import fit_own
from parplan.experiments.commands.study.validate_search import run_search
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.planners.search.workers import in_order
from parplan.sim.analysis.residuals import Pool
from parplan.sim.software.framework import Framework

SHIPPED = VALIDATION
"""The runs that are predicted where no file is named."""

PARTIAL = "predictions-partial.csv"
"""What an interrupt leaves, until the next whole results."""

AT_A_TIME = 8
"""Runs that are handed to a process together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan validate`."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        help="runs, one JSON object per line (default: the shipped validation file)",
    )
    parser.add_argument("--group", action="append", help="only the runs of this source")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="maximum number of processes (default %(default)s)",
    )
    add_executor_argument(parser)
    parser.add_argument(
        "--fit-frameworks",
        type=Path,
        metavar="FILE",
        help="fit the frameworks' constants to the calibration file and write them to FILE (TOML)",
    )
    parser.add_argument(
        "--fit-ap",
        type=Path,
        metavar="FILE",
        help="fit the constants of the software preset moai to the published logs of Advanced "
        "Parallelization and write them to FILE (TOML)",
    )
    parser.add_argument(
        "--write-docs",
        type=Path,
        metavar="PAGE",
        help="write the table into this page (docs/accuracy.md) and the figure next to it",
    )
    parser.add_argument(
        "--worst",
        action="store_true",
        help="print the runs with the largest errors instead of the table",
    )
    parser.add_argument(
        "--by-kind",
        action="store_true",
        help="print the bias for each kind of plan on each architecture instead of the table",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="instead: search the job of each run, and compare the answer with the plan that was "
        "run (search.csv)",
    )
    parser.add_argument(
        "--search-seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="most seconds of processor time for the search of a job; 0: only say whether the "
        "plans that were run are in the default space (default %(default)s)",
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="with --search: only N different runs, of each source alike",
    )
    parser.add_argument(
        "--leave-one-source-out",
        action="store_true",
        help="predict every source by constants that are fitted without it, and count how many of "
        "its runs lie within the intervals that the other sources give",
    )
    fit_own.add_arguments(parser)
    parser.add_argument(
        "--write-residuals",
        type=Path,
        metavar="FILE",
        help="write quantiles of the errors on the shipped runs, by kind of setup (TOML)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/validate"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Predict, print a line per source, write every run and a figure."""
    if args.jobs < 1:
        raise ParplanError(f"--jobs: must be at least 1, got {args.jobs}")
    if args.fit_frameworks is not None:
        return _fit(args.fit_frameworks)
    if args.fit_ap is not None:
        return _fit_ap(args.fit_ap)
    check_stacks()
    if args.write_residuals is not None:
        return _write_residuals(args.write_residuals, args.jobs, args.dask)
    if args.fit is not None:
        return fit_own.run_fit(args, args.files)
    args.files = args.files or [SHIPPED]
    if args.attribute is not None:
        cases = chosen_cases(args.files, [args.attribute], "--attribute")
        return fit_own.run_attribution(args, cases)
    cases = chosen_cases(args.files, args.group)
    if args.search:
        return run_search(args, cases)
    if args.fit_study:
        return fit_own.run_study(args, cases)
    if args.leave_one_source_out:
        return _leave_one_out(args, cases)
    if args.write_docs is not None:
        for command in (COMMAND, WORST, KINDS):  # So that a page without a place is found at once.
            written_page(args.write_docs, "", command)
    output = OutputFolder(args.output, args.argv)
    outcomes, is_whole = evaluated(cases, args.jobs, args.dask)
    if not is_whole:
        _keep_part(output, outcomes, len(cases))
        raise KeyboardInterrupt
    table = summary(outcomes)
    shown = kinds if args.by_kind else worst
    print(shown(outcomes) if args.by_kind or args.worst else table)
    output.write_csv("summary.csv", summary_rows(outcomes))
    output.write_csv("predictions.csv", [row(outcome) for outcome in outcomes])
    output.remove(PARTIAL)
    output.write_figure("accuracy.png", lambda: figure(outcomes))
    output.write_manifest({"files": [str(path) for path in args.files], "groups": args.group})
    if args.write_docs is not None:
        tables = {COMMAND: table, WORST: worst(outcomes), KINDS: kinds(outcomes)}
        for command, text in tables.items():
            page = written_page(args.write_docs, text, command)
            write_whole(args.write_docs, page.encode())
        picture = (output.path / "accuracy.png").read_bytes()
        write_whole(args.write_docs.with_suffix(".png"), picture)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _leave_one_out(args: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Predict every source without it, print a line each, write every run."""
    # The fit loads scipy, which no other use of this command needs.
    from parplan.experiments.accuracy.leave_one_out import leave_one_out_rows, leave_one_out_text
    from parplan.experiments.cases.leave_one_out import by_source, constants_without

    if args.write_docs is not None:
        written_page(args.write_docs, "", LEAVE_ONE_OUT)
    output = OutputFolder(args.output, args.argv)
    constants = constants_without(cases, _note)
    outcomes, is_whole = evaluated(cases, args.jobs, args.dask, constants)
    if not is_whole:
        _keep_part(output, outcomes, len(cases))
        raise KeyboardInterrupt
    table = leave_one_out_text(outcomes)
    print(table)
    output.write_csv("leave_one_source_out.csv", leave_one_out_rows(by_source(outcomes)))
    output.write_csv("predictions.csv", [row(outcome) for outcome in outcomes])
    output.write_manifest({"files": [str(path) for path in args.files], "groups": args.group})
    if args.write_docs is not None:
        page = written_page(args.write_docs, table, LEAVE_ONE_OUT)
        write_whole(args.write_docs, page.encode())
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def chosen_cases(
    files: Sequence[Path], groups: Sequence[str] | None, option: str = "--group"
) -> list[Case]:
    """The runs of files, of some sources alone; raises `ParplanError` where there are none."""
    cases = [case for path in files for case in read_cases(path)]
    if not cases:
        raise ParplanError(f"{', '.join(map(str, files))}: no runs")
    known = {case.group for case in cases}
    for group in groups or ():
        if group not in known:
            raise ParplanError(f"{option} {group}: known: {', '.join(sorted(known))}")
    return [case for case in cases if not groups or case.group in groups]


def evaluated(
    cases: Sequence[Case],
    jobs: int,
    dask: str | None,
    constants: Mapping[str, Framework] | None = None,
) -> tuple[list[Outcome], bool]:
    """The outcomes in the order of the cases, and whether they are all; an interrupt ends it.

    `constants`: frameworks by source, in place of those that ship.
    """
    each = partial(evaluate, constants=constants)
    progress, outcomes = ProgressLine(), list[Outcome]()
    try:
        with (
            requested_executor(dask) as executor,
            in_order(each, cases, jobs, AT_A_TIME, executor) as results,
        ):
            for outcome in results:
                outcomes.append(outcome)
                progress("validate", len(outcomes), len(cases))
    except KeyboardInterrupt:
        return outcomes, False
    return outcomes, True


def _keep_part(output: OutputFolder, outcomes: Sequence[Outcome], of: int) -> None:
    """Keep the results of an interrupted run beside those of a complete one."""
    if outcomes:
        output.write_csv(PARTIAL, [row(outcome) for outcome in outcomes])
        where = output.path / PARTIAL
        print(f"parplan: {len(outcomes)} of {of} runs done: {where}", file=sys.stderr)


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr)


def _fit(path: Path) -> int:
    cases = read_cases(CALIBRATION)
    refuse_held_out(cases)
    own = {
        name: [case for case in cases if case.group in groups] for name, groups in SOURCES.items()
    }
    text = frameworks_toml(list(fit_frameworks(own, _note).values()))
    print(text, end="")
    write_whole(path, text.encode())
    return 0


def _fit_ap(path: Path) -> int:
    from parplan.experiments.fits.ap_fit import fit_platform, platform_toml

    check_writable(path.parent)
    logs = [log for log in read_logs() if log.fitted]
    constants = fit_platform(logs, lambda line: print(f"parplan: {line}", file=sys.stderr))
    text = platform_toml(constants, logs)
    print(text, end="")
    write_whole(path, text.encode())
    return 0


def _write_residuals(path: Path, jobs: int, dask: str | None) -> int:
    """Past accuracy alone. Sources that constants are fitted to would look better than others."""
    check_writable(path.parent)
    pools: tuple[tuple[Pool, Path, frozenset[str]], ...] = (
        ("reported", VALIDATION, FITTED),
        ("calibration", CALIBRATION, frozenset()),
    )
    tables = []
    for pool, file, left_out in pools:
        cases = [case for case in read_cases(file) if case.group not in left_out]
        outcomes, is_whole = evaluated(cases, jobs, dask)
        if not is_whole:
            raise KeyboardInterrupt
        tables.append(residuals_of(pool, outcomes))
    text = residuals_toml(tables)
    print(text, end="")
    write_whole(path, text.encode())
    return 0
