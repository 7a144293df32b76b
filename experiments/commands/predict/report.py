"""`parplan report`: an output folder as one page of HTML."""

import argparse
from pathlib import Path

from parplan._files import write_whole
from parplan.experiments.report.render import REPORT, check_own_page, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan report`."""
    parser.add_argument("folder", type=Path, help="the output folder of any command")
    parser.add_argument("-o", "--output", type=Path, help=f"a file (default FOLDER/{REPORT})")


def run(args: argparse.Namespace) -> int:
    """Write the page, and print where it is."""
    path = args.output or args.folder / REPORT
    check_own_page(path)
    write_whole(path, render(args.folder).encode())
    print(path)
    return 0
