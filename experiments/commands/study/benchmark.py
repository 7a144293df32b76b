"""`parplan benchmark`: speed of simulator, fast evaluator and search; errors of executed plans."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from parplan.backend.execution.execute import execute
from parplan.errors import ParplanError
from parplan.experiments.accuracy.comparison_tables import row, runs, short_name
from parplan.experiments.benchmarks import execution as execution_benchmark
from parplan.experiments.benchmarks import large_jobs, sampled_bounds
from parplan.experiments.benchmarks import planners as benchmark_planners
from parplan.experiments.benchmarks import scripts as scripts_benchmark
from parplan.experiments.benchmarks import simulator as benchmark
from parplan.experiments.benchmarks import unseen_models as unseen_benchmark
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
        "--bounds",
        type=int,
        metavar="N",
        help="compare the bounds of N plans of default spaces with their exact steps instead",
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
        "--unseen",
        action="store_true",
        help="run a few plans of ten other models instead: six shapes and four architectures",
    )
    group.add_argument(
        "--scripts",
        nargs="*",
        choices=scripts_benchmark.KINDS,
        metavar="SCRIPT",
        help="train these scripts instead (all eight by default) by the one line's plan and by "
        "others, for its regret: " + ", ".join(scripts_benchmark.KINDS),
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
    if args.unseen:
        return _unseen(args, output)
    if args.scripts is not None:
        return _scripts(args, output)
    sizes = (
        ""
        if args.planners or args.bounds is not None
        else "(p, m, v): ranks, micro-batches, chunks. "
    )
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


def _unseen(args: argparse.Namespace, output: OutputFolder) -> int:
    """Run a few plans of every model, print, write."""
    executions = {}
    for name, (workload, plans) in unseen_benchmark.models(small=args.small).items():
        _note(name)
        executions[name] = execute(
            workload,
            execution_benchmark.PROCESSES,
            plans,
            repeats=args.repeats,
            choose=False,
            budget_s=unseen_benchmark.BUDGET_S,
            report=_note,
        )
        print(unseen_benchmark.line(name, executions[name]), flush=True)
    print("\n".join(unseen_benchmark.summary(executions)), flush=True)
    output.write_json("unseen.json", {name: e.to_json() for name, e in executions.items()})
    output.write_manifest({"small": args.small, "repeats": args.repeats}, seed=0)
    _note(f"results: {output.path}/ ({', '.join(sorted(output.files))})")
    return 0


def _scripts(args: argparse.Namespace, output: OutputFolder) -> int:
    """Train every script by several plans, print, write."""
    found = []
    rounds = 1 if args.small else scripts_benchmark.ROUNDS
    kinds = args.scripts or scripts_benchmark.KINDS
    for script in scripts_benchmark.measure(kinds, rounds, _note):
        found.append(script)
        print(scripts_benchmark.line(script), flush=True)
    print(scripts_benchmark.summary(found), flush=True)
    rows = [
        {"script": script.name, "plan": short_name(plan), "step_s": step_s}
        for script in found
        for plan, steps_s in script.steps_s.items()
        for step_s in steps_s
    ]
    output.write_csv("scripts.csv", rows)
    output.write_manifest({"small": args.small, "scripts": list(kinds)}, seed=0)
    _note(f"results: {output.path}/ ({', '.join(sorted(output.files))})")
    return 0


def _note(text: str) -> None:
    print(f"parplan: {text}", file=sys.stderr, flush=True)


def _execution(args: argparse.Namespace, output: OutputFolder) -> int:
    """Run the plans, print, write what `parplan compare` reads."""
    workload = execution_benchmark.workload(small=args.small)
    plans = execution_benchmark.plans(small=args.small)
    execution = execution_benchmark.joined(
        [
            execute(
                workload,
                execution_benchmark.PROCESSES,
                part,
                repeats=args.repeats,
                choose=False,
                hand_written=number == 0,
                budget_s=execution_benchmark.BUDGET_S,
                report=_note,
            )
            for number, part in enumerate(execution_benchmark.sittings(plans))
        ]
    )
    print(execution_benchmark.report(execution), flush=True)
    output.write_json("execution.json", execution.to_json())
    output.write_csv("executed.csv", [row(e) for e in execution.executed])
    output.write_trace(chrome_trace(runs(execution.executed)))
    output.write_manifest({"small": args.small, "repeats": args.repeats}, seed=0)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _measures(args: argparse.Namespace) -> Iterator[benchmark.Measure]:
    if args.bounds is not None:
        return sampled_bounds.measures(
            args.bounds, sampled_bounds.JOBS[: 1 if args.small else None]
        )
    if args.planners:
        if args.samples < 1:
            raise ParplanError(f"--samples: at least 1, got {args.samples}")
        searched = benchmark_planners.SMALL if args.small else benchmark_planners.SEARCHED
        jobs = large_jobs.JOBS[: 1 if args.small else None]
        found = benchmark_planners.measures(searched, args.samples, calculon=args.calculon)
        return chain(found, large_jobs.measures(jobs))
    small = (benchmark.SMALL,), benchmark.SMALL, 100, (benchmark.SMALL, 4)
    return benchmark.measures(*small) if args.small else benchmark.measures()


def line(measure: benchmark.Measure) -> str:
    """One figure as text."""
    value = f"{measure.value:,.0f}" if measure.value >= 1000 else f"{measure.value:.3g}"
    target = f"  ({measure.target})" if measure.target else ""
    return f"{measure.what:44}{value:>12} {measure.unit:14}{target}".rstrip()
