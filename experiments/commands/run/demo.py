"""`parplan demo`: plan a large model; then plan, run and compare a small one here."""

import argparse
import sys
from pathlib import Path

from parplan.experiments.cli import main

PLAN = (
    *("plan", "llama2-13b", "--cluster", "4xLarge.2048GB"),
    *("--seq-len", "1024", "--global-batch", "64"),
)
EXECUTE = ("execute", "gpt-tiny", "--processes", "2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan demo`."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/demo"), help="folder (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Both commands, each announced as a user would type it; the first failure's exit code."""
    for words in (PLAN, EXECUTE):
        command = [*words, "-o", str(args.output / words[0])]
        print(f"\n$ parplan {' '.join(command)}", flush=True)
        code = main(command)
        if code:
            return code
    print(f"\nparplan: all results are in {args.output}/", file=sys.stderr)
    return 0
