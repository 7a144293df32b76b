"""`parplan reproduce`: what publications measured, predicted, with table and figure."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from parplan.experiments.new_folder import add_output_arguments, is_done, new_folder
from parplan.experiments.output import OutputFolder
from parplan.experiments.reproduce import NAMES, experiment
from parplan.experiments.reproduce.experiment import Experiment, Result, csv_rows, table
from parplan.experiments.tables import columns
from parplan.hardware.errors import ParplanError, unknown_name

LIST, ALL = "list", "all"
DEFAULT = "out/reproduce"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan reproduce`."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="an experiment, list (what there is, and how long it takes), or all",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a reduced set of cases, in a few seconds"
    )
    add_output_arguments(parser, DEFAULT)


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print, write; each experiment in a folder of its own."""
    if args.name == LIST:
        print(columns(list(_list())))
        return 0
    if args.name == ALL:
        return _run_all(args)
    if args.name not in NAMES:
        raise unknown_name("experiment", args.name, [*NAMES, LIST, ALL])
    _run_one(args.name, args.output / args.name, args)
    return 0


def _list() -> list[list[str]]:
    found = {name: experiment(name) for name in NAMES}
    rows = [[name, f"{one.seconds:.0f} s", one.question] for name, one in found.items()]
    return [["experiment", "about", "question"], *rows]


def _run_all(args: argparse.Namespace) -> int:
    """Every experiment that is not there yet, then a line for each of them."""
    for number, name in enumerate(NAMES, start=1):
        path = args.output / name
        if is_done(path) and not args.force:
            _note(f"{path}: is there already; --force runs it again")
            continue
        _note(f"{name} ({number} of {len(NAMES)})")
        _run_one(name, path, args)
    return 0


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
    output.write_figure("figure.png", result.figure)
    output.write_text("summary.txt", "\n".join(said) + "\n")
    inputs = {"experiment": args.name, "quick": args.quick, "source": found.source}
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
