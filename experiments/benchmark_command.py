"""`parplan benchmark`: how fast the simulator and the fast evaluator are on this machine."""

import argparse
import dataclasses
import sys
from pathlib import Path

from parplan.experiments import benchmark
from parplan.experiments.output import OutputFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan benchmark`."""
    parser.add_argument(
        "--small", action="store_true", help="small sizes only, to see whether it works"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/benchmark"), help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    output = OutputFolder(args.output, args.argv)
    small = (benchmark.SMALL,), benchmark.SMALL, 100, (benchmark.SMALL, 4)
    print("(p, m, v): ranks, micro-batches, chunks. CPU time of one process, best of several runs.")
    found = []
    for measure in benchmark.measures(*small) if args.small else benchmark.measures():
        found.append(dataclasses.asdict(measure))
        print(line(measure), flush=True)
    output.write_json("benchmark.json", found)
    output.write_manifest({"small": args.small}, seed=benchmark.SEED)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def line(measure: benchmark.Measure) -> str:
    """One figure as text."""
    value = f"{measure.value:,.0f}" if measure.value >= 1000 else f"{measure.value:.3g}"
    target = f"  ({measure.target})" if measure.target else ""
    return f"{measure.what:44}{value:>12} {measure.unit:14}{target}".rstrip()
