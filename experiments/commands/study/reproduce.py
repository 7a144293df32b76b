"""`parplan reproduce`: what publications measured, predicted, with table and figure."""

import argparse
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from parplan._files import write_whole
from parplan._strict import read_json
from parplan.errors import ParplanError, unknown_name
from parplan.experiments.accuracy.page import written_page
from parplan.experiments.output.folder import MANIFEST, OutputFolder
from parplan.experiments.output.new_folder import (
    add_output_arguments,
    is_done,
    new_folder,
)
from parplan.experiments.output.tables import columns
from parplan.experiments.reproduce import NAMES, experiment
from parplan.experiments.reproduce.experiment import ERROR, Experiment, Result, csv_rows, table

LIST, ALL = "list", "all"
DEFAULT = "out/reproduce"
COMMAND, PAGE = "parplan reproduce all", "docs/experiments.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan reproduce`."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="an experiment, list (all experiments with their run times), or all",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a reduced set of cases, in a few seconds"
    )
    parser.add_argument(
        "--write-docs",
        type=Path,
        metavar="PAGE",
        help="with all: write the errors of all experiments into this page (docs/experiments.md)",
    )
    add_output_arguments(parser, DEFAULT)


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print, write; each experiment in a folder of its own."""
    if args.name == LIST:
        print(columns(list(_list())))
        return 0
    if args.name == ALL:
        return _run_all(args)
    if args.write_docs is not None:
        raise ParplanError("--write-docs: goes with all")
    if args.name not in NAMES:
        raise unknown_name("experiment", args.name, [*NAMES, LIST, ALL])
    # What else is written of the command (--report) belongs to its own folder.
    args.output /= args.name
    _run_one(args.name, args.output, args)
    return 0


def _list() -> list[list[str]]:
    found = {name: experiment(name) for name in NAMES}
    rows = [[name, f"{one.seconds:.0f} s", one.question] for name, one in found.items()]
    return [["experiment", "about", "question"], *rows]


def _run_all(args: argparse.Namespace) -> int:
    """Every experiment that is not there yet, then a line for each of them."""
    if args.write_docs is not None:
        if args.quick:
            raise ParplanError("--write-docs: not of a reduced set (--quick)")
        # So that a page without a place is found at once.
        written_page(args.write_docs, "", COMMAND, PAGE)
    for number, name in enumerate(NAMES, start=1):
        path = args.output / name
        if is_done(path) and not args.force:
            _note(f"{path}: is there already; --force runs it again")
            continue
        _note(f"{name} ({number} of {len(NAMES)})")
        _run_one(name, path, args)
    found = overview(args.output, args.quick)
    print(f"\n{found}")
    if args.write_docs is not None:
        write_whole(args.write_docs, written_page(args.write_docs, found, COMMAND, PAGE).encode())
    return 0


def overview(path: Path, quick: bool) -> str:
    """Summarise the errors of each experiment of a folder from the manifests.

    Raises `ParplanError` where one is of a reduced set and should not be, or the other way round.
    """
    rows = []
    for name in NAMES:
        inputs = read_json(path / name / MANIFEST)["inputs"]
        if inputs["quick"] is not quick:
            which = "a reduced set" if inputs["quick"] else "all cases"
            raise ParplanError(f"{path / name}: is of {which}; --force runs it again")
        for column, errors in inputs["errors"].items():
            rows.append(overview_row(name, column, errors))
    return columns([["experiment", "of", "numbers", "median", "90 %", "bias"], *rows])


def overview_row(name: str, column: str, errors: Mapping[str, float]) -> list[str]:
    """A line of it."""
    what = column.removesuffix(ERROR).strip() or "all"
    return [
        name,
        what,
        f"{errors['count']:.0f}",
        f"{errors['median']:.1%}",
        f"{errors['p90']:.1%}",
        f"{errors['bias']:+.1%}",
    ]


def _run_one(name: str, path: Path, args: argparse.Namespace) -> None:
    found = experiment(name)
    # What an interrupted `all` leaves has no manifest, and is done again.
    left = () if is_done(path) else ("table.csv", "figure.png", "summary.txt")
    output = new_folder(path, args.argv, force=args.force, unfinished=left)
    start = time.perf_counter()
    result = found.run(args.quick)
    if not result.rows:
        raise ParplanError(f"{name}: nothing of it can be predicted")
    said = [*_heading(name, found, args.quick), *result.summary()]
    print("\n".join([*said, "", _short(table(result.rows))]))
    _write(output, found, result, said, args)
    seconds = time.perf_counter() - start
    _note(f"{seconds:.1f} s; results: {output.path}/ ({', '.join(sorted(output.files))})")


def _heading(name: str, found: Experiment, quick: bool) -> list[str]:
    lines = [
        f"{name}: {found.question}",
        f"source: {found.source}",
        f"setup: {found.setup}",
        f"published numbers: {found.published}",
    ]
    return [*lines, *(["a reduced set of cases (--quick)"] if quick else [])]


def _write(
    output: OutputFolder,
    found: Experiment,
    result: Result,
    said: list[str],
    args: argparse.Namespace,
) -> None:
    output.write_csv("table.csv", csv_rows(result.rows))
    output.write_figure("figure.png", lambda: result.figure)
    output.write_text("summary.txt", "\n".join(said) + "\n")
    inputs = {
        "experiment": output.path.name,
        "quick": args.quick,
        "source": found.source,
        "errors": {name: asdict(errors) for name, errors in result.errors.items()},
    }
    output.write_manifest(inputs)


MOST_LINES = 60


def _short(text: str) -> str:
    """The table, cut where it is long, and to the terminal."""
    lines = text.splitlines()
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [line[:width] for line in lines]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"... {len(lines) - MOST_LINES} more rows are in table.csv"]
    return "\n".join(lines)


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr)
