"""Fits to own runs, and what is wrong with them: `validate --fit`, `--fit-study`, `--attribute`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parplan._files import write_whole
from parplan.errors import ParplanError
from parplan.experiments.accuracy.page import STUDY, written_page
from parplan.experiments.cases.attribute import attributions
from parplan.experiments.cases.evaluate import evaluate
from parplan.experiments.cases.held_out import refuse_held_out
from parplan.experiments.cases.own.checked import CheckedFit, fit_checked
from parplan.experiments.cases.own.fit import relative_error
from parplan.experiments.cases.own.machine_factors import setting_toml
from parplan.experiments.cases.own.next import neighbours, proposals
from parplan.experiments.cases.own.report import (
    attribution_rows,
    attribution_text,
    constant_rows,
    error_table,
    fit_text,
    proposal_rows,
    proposal_text,
    run_rows,
    study_rows,
    study_text,
)
from parplan.experiments.cases.own.runs import OwnRun, is_timed, own_run
from parplan.experiments.cases.own.study import DRAWS, study_draw, study_tasks
from parplan.experiments.cases.read import Case, read_cases
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.planners.search.workers import in_order

OWN = "own"
"""The name of the fitted software in `software.toml`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that ask for a fit to own runs, the study of such fits, or attribution."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--fit",
        type=Path,
        metavar="RUNS",
        help="fit constants to your own measured runs (5 to 10 are enough), write software.toml; "
        "FILES are then further runs to try it on",
    )
    what.add_argument(
        "--fit-study",
        action="store_true",
        help="study: fit to 8 runs of each source and predict its other runs",
    )
    what.add_argument(
        "--attribute",
        metavar="GROUP",
        help="report which feature of the plans explains the errors of this source",
    )
    parser.add_argument(
        "--candidates",
        type=Path,
        metavar="FILE",
        help="with --fit: candidates for the next measurement (default: neighbours of the runs)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=DRAWS,
        metavar="N",
        help="with --fit-study: random draws per source (default %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="with --fit-study: random seed of the draws (default %(default)s)",
    )


def run_fit(args: argparse.Namespace, others: Sequence[Path]) -> int:
    """Fit to own runs, print and write what changes and what to measure next."""
    cases = read_cases(args.fit)
    refuse_held_out(cases)
    others_read = [case for path in others for case in read_cases(path)]
    offered = read_cases(args.candidates) if args.candidates is not None else None
    runs = _runs(cases, str(args.fit))
    try:
        checked = fit_checked(runs)
    except ParplanError as error:
        raise ParplanError(f"{args.fit}: {error}") from None
    output = OutputFolder(args.output, args.argv)
    print(fit_text(checked))
    known = {case.id for case in cases}
    _try_on([case for case in others_read if case.id not in known], checked)
    found = proposals(checked.fit, runs, neighbours(runs) if offered is None else offered)
    print(proposal_text(found))
    output.write_text("software.toml", _own_toml(checked, args.fit.name))
    output.write_csv("constants.csv", constant_rows(checked))
    output.write_csv("runs.csv", run_rows(checked))
    output.write_csv("candidates.csv", proposal_rows(found))
    inputs = {"fit": str(args.fit), "files": [*map(str, others)]}
    output.write_manifest({**inputs, "candidates": args.candidates and str(args.candidates)})
    print(
        f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))}); use it as "
        f"--software {output.path / 'software.toml'}:{OWN}",
        file=sys.stderr,
    )
    return 0


def _runs(cases: Sequence[Case], where: str) -> list[OwnRun]:
    """Those that can be fitted to; the others are said, one line each."""
    if not cases:
        raise ParplanError(f"{where}: no runs")
    ids = [case.id for case in cases]
    for name in ids:
        if ids.count(name) > 1:
            raise ParplanError(f"{where}: id: {name!r} is given to several runs")
    runs = []
    for case in cases:
        try:
            if not is_timed(case):
                raise ParplanError("measured: no step time, and no rate of tokens or samples")
            runs.append(own_run(case))
            for doubt in evaluate(case).doubts:
                print(f"parplan: doubtful, and fitted to: {case.id}: {doubt}", file=sys.stderr)
        except ParplanError as error:
            print(f"parplan: left out: {case.id}: {error}", file=sys.stderr)
    return runs


def _try_on(cases: Sequence[Case], checked: CheckedFit) -> None:
    """Errors of further runs before and after."""
    runs = []
    for case in cases:
        try:
            if is_timed(case):
                runs.append(own_run(case))
        except ParplanError:
            continue
    start = checked.fit.start.framework.name
    runs = [run for run in runs if run.request.workload.framework.name == start]
    if not cases:
        return
    if not runs:
        print(f"further runs: none that is timed, can be predicted and has the constants {start}")
        return
    errors = {
        f"{name}, further runs": [relative_error(run, setting) for run in runs]
        for name, setting in (
            ("shipped constants", checked.fit.start),
            ("fitted", checked.fit.setting),
        )
    }
    print(error_table(errors))


def _own_toml(checked: CheckedFit, file: str) -> str:
    setting, start = checked.setting, checked.fit.start.framework
    what = "fitted to" if checked.is_better else "as shipped: no better when fitted to"
    source = f"{start.name}, {what} {len(checked.runs)} runs of {file} by parplan validate --fit"
    own = replace(setting.framework, name=OWN, source=source.replace('"', "'").replace("\\", "/"))
    return setting_toml(replace(setting, framework=own), "Written by parplan validate --fit.")


def run_study(args: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Fit to a few runs of each source, predict its others; print a table. Nothing is kept."""
    if args.write_docs is not None:
        written_page(args.write_docs, "", STUDY)  # So that a page without a place is found at once.
    if args.draws < 1:
        raise ParplanError(f"--draws: must be at least 1, got {args.draws}")
    tasks = study_tasks(cases, args.seed, args.draws)
    if not tasks:
        raise ParplanError("--fit-study: no source has enough runs with a step time")
    output, progress, draws = OutputFolder(args.output, args.argv), ProgressLine(), []
    with in_order(study_draw, tasks, args.jobs) as results:
        for draw in results:
            draws.append(draw)
            progress("study", len(draws), len(tasks))
    table = study_text(draws)
    print(table)
    output.write_csv("study.csv", study_rows(draws))
    output.write_manifest({"files": [*map(str, args.files)]}, seed=args.seed)
    if args.write_docs is not None:
        write_whole(args.write_docs, written_page(args.write_docs, table, STUDY).encode())
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def run_attribution(args: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Print which feature of the plans explains the errors of one source."""
    output, progress, outcomes = OutputFolder(args.output, args.argv), ProgressLine(), []
    for case in cases:
        outcomes.append(evaluate(case))
        progress("attribute", len(outcomes), len(cases))
    try:
        found = attributions(outcomes)
    except ParplanError as error:
        raise ParplanError(f"--attribute {args.attribute}: {error}") from None
    print(attribution_text(args.attribute, found))
    output.write_csv("attribution.csv", attribution_rows(found))
    output.write_manifest({"files": [*map(str, args.files)], "group": args.attribute})
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0
