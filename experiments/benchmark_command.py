"""`parplan benchmark`: how fast the simulator, the fast evaluator and the search are here."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from parplan.experiments import benchmark, benchmark_planners
from parplan.experiments.output import OutputFolder
from parplan.hardware.errors import ParplanError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan benchmark`."""
    parser.add_argument(
        "--small", action="store_true", help="small sizes only, to see whether it works"
    )
    group = parser.add_argument_group("planners")
    group.add_argument(
        "--planners", action="store_true", help="measure the search for a plan instead"
    )
    group.add_argument(
        "--samples",
        type=int,
        default=1000,
        metavar="N",
        help="plans whose bound is compared with their step (default %(default)s)",
    )
    group.add_argument(
        "--calculon", type=Path, metavar="PATH", help="a checkout of Calculon to compare with"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/benchmark"), help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    output = OutputFolder(args.output, args.argv)
    sizes = "" if args.planners else "(p, m, v): ranks, micro-batches, chunks. "
    print(f"{sizes}CPU time of one process, best of several runs.")
    found = []
    for measure in _measures(args):
        found.append(dataclasses.asdict(measure))
        print(line(measure), flush=True)
    output.write_json("benchmark.json", found)
    inputs = {"small": args.small, "planners": args.planners, "samples": args.samples}
    output.write_manifest(inputs, seed=benchmark.SEED)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _measures(args: argparse.Namespace) -> Iterator[benchmark.Measure]:
    if args.planners:
        if args.samples < 1:
            raise ParplanError(f"--samples: at least 1, got {args.samples}")
        searched = benchmark_planners.SMALL if args.small else benchmark_planners.SEARCHED
        return benchmark_planners.measures(searched, args.samples, calculon=args.calculon)
    if args.calculon is not None:
        raise ParplanError("--calculon: goes with --planners")
    small = (benchmark.SMALL,), benchmark.SMALL, 100, (benchmark.SMALL, 4)
    return benchmark.measures(*small) if args.small else benchmark.measures()


def line(measure: benchmark.Measure) -> str:
    """One figure as text."""
    value = f"{measure.value:,.0f}" if measure.value >= 1000 else f"{measure.value:.3g}"
    target = f"  ({measure.target})" if measure.target else ""
    return f"{measure.what:44}{value:>12} {measure.unit:14}{target}".rstrip()
