"""`parplan benchmark`: how fast the simulator, the fast evaluator and the search are here, and how
close predictions of executed plans come."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from parplan.backend.execution.execute import execute
from parplan.errors import ParplanError
from parplan.experiments.accuracy.comparison_tables import row, runs
from parplan.experiments.benchmarks import execution as execution_benchmark
from parplan.experiments.benchmarks import large_jobs
from parplan.experiments.benchmarks import planners as benchmark_planners
from parplan.experiments.benchmarks import simulator as benchmark
from parplan.experiments.output.folder import OutputFolder
from parplan.sim.analysis.timeline import chrome_trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan benchmark`."""
    parser.add_argument("--small", action="store_true", help="small sizes only, as a smoke test")
    group = parser.add_argument_group("planners")
    group.add_argument(
        "--planners", action="store_true", help="measure the search for a plan instead"
    )
    group.add_argument(
        "--samples",
        type=int,
        default=1000,
        metavar="N",
        help="number of plans whose bound is compared with the exact step (default %(default)s)",
    )
    group.add_argument(
        "--calculon", type=Path, metavar="PATH", help="checkout of Calculon to compare with"
    )
    group = parser.add_argument_group("execution")
    group.add_argument(
        "--execution",
        action="store_true",
        help="run many plans on two processes instead, and compare each with its prediction",
    )
    group.add_argument(
        "--repeats",
        type=int,
        default=execution_benchmark.REPEATS,
        help="timed steps per plan, fewer if they take too long (default %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/benchmark"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    output = OutputFolder(args.output, args.argv)
    if args.execution:
        return _execution(args, output)
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


def _execution(args: argparse.Namespace, output: OutputFolder) -> int:
    """Run the plans, print, write what `parplan compare` reads."""
    workload = execution_benchmark.workload(small=args.small)
    execution = execute(
        workload,
        execution_benchmark.PROCESSES,
        execution_benchmark.plans(small=args.small),
        repeats=args.repeats,
        choose=False,
        hand_written=True,
        budget_s=execution_benchmark.BUDGET_S,
        report=lambda text: print(f"parplan: {text}", file=sys.stderr, flush=True),
    )
    print(execution_benchmark.report(execution), flush=True)
    output.write_json("execution.json", execution.to_json())
    output.write_csv("executed.csv", [row(e) for e in execution.executed])
    output.write_trace(chrome_trace(runs(execution.executed)))
    output.write_manifest({"small": args.small, "repeats": args.repeats}, seed=0)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _measures(args: argparse.Namespace) -> Iterator[benchmark.Measure]:
    if args.planners:
        if args.samples < 1:
            raise ParplanError(f"--samples: at least 1, got {args.samples}")
        searched = benchmark_planners.SMALL if args.small else benchmark_planners.SEARCHED
        jobs = large_jobs.JOBS[: 1 if args.small else None]
        found = benchmark_planners.measures(searched, args.samples, calculon=args.calculon)
        return chain(found, large_jobs.measures(jobs))
    if args.calculon is not None:
        raise ParplanError("--calculon: goes with --planners")
    small = (benchmark.SMALL,), benchmark.SMALL, 100, (benchmark.SMALL, 4)
    return benchmark.measures(*small) if args.small else benchmark.measures()


def line(measure: benchmark.Measure) -> str:
    """One figure as text."""
    value = f"{measure.value:,.0f}" if measure.value >= 1000 else f"{measure.value:.3g}"
    target = f"  ({measure.target})" if measure.target else ""
    return f"{measure.what:44}{value:>12} {measure.unit:14}{target}".rstrip()
