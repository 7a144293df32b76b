"""`parplan report`: an output folder as one page of HTML."""

import argparse
from pathlib import Path

from parplan.experiments.report.render import REPORT, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan report`."""
    parser.add_argument("folder", type=Path, help="the output folder of any command")
    parser.add_argument("-o", "--output", type=Path, help=f"a file (default FOLDER/{REPORT})")


def run(args: argparse.Namespace) -> int:
    """Write the page, and print where it is."""
    path = args.output or args.folder / REPORT
    write_report(args.folder, path)
    print(path)
    return 0
