"""`parplan compare`: what `parplan execute` or `parplan benchmark --execution` found, in detail."""

import argparse
import os
import sys
from pathlib import Path

from parplan._strict import read_json
from parplan.backend.execution.result import Execution
from parplan.errors import ParplanError
from parplan.experiments.accuracy.comparison import compare_set
from parplan.experiments.accuracy.comparison_tables import (
    attribution_table,
    executed_plans_text,
    row,
    runs,
    short_name,
    summary,
)
from parplan.experiments.figures.gantt import gantt
from parplan.experiments.output.folder import MANIFEST, UNFINISHED, OutputFolder
from parplan.sim.analysis.timeline import chrome_trace

RECORDED_STEPS = 12
"""Of a training script, before its `execution.json` is written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan compare`."""
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        default=[Path("out/execute")],
        metavar="FOLDER",
        help="output folders of parplan execute or benchmark --execution (default out/execute); "
        "their plans are merged",
    )
    parser.add_argument(
        "--plan", metavar="NAME", help="only plans whose name contains this text, for example zb-h1"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/compare"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Read, compare, print, write."""
    found = [_read(folder) for folder in args.folders]
    executed = [e for execution in found for e in execution.executed]
    if args.plan is not None:
        names = [short_name(e.plan) for e in executed]
        executed = [e for e in executed if args.plan in short_name(e.plan)]
        if not executed:
            raise ParplanError(f"--plan: {args.plan!r} is in none of {', '.join(names)}")
    output = OutputFolder(args.output, args.argv)
    print(executed_plans_text(executed))
    print("\nthe error by where it comes from, in % of the measured step; bubbles")
    print(attribution_table(executed))
    compared = compare_set(executed)
    print(f"\n{summary(compared)}")
    for plan in (plan for execution in found for plan in execution.out_of_memory):
        print(f"{short_name(plan)}: out of memory")
    output.write_csv("compare.csv", [row(e) for e in executed])
    output.write_trace(chrome_trace(runs(executed)))
    worst = compared.worst
    name = short_name(worst.plan)
    pair = {f"predicted {name}": worst.predicted, f"measured {name}": worst.measured}
    output.write_figure("worst.png", lambda: gantt(pair))
    inputs = {"folders": [str(folder) for folder in args.folders], "plan": args.plan}
    output.write_manifest(inputs)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _read(folder: Path) -> Execution:
    path = folder / "execution.json"
    if not os.path.exists(path):
        if _of_a_script(folder):
            raise ParplanError(
                f"{folder}: has a plan.json, but no execution.json to compare: a run of a training "
                f"script writes it once {RECORDED_STEPS} steps have ended and another begins, and "
                "only for a plan that was searched, which is then predicted, not for one given as "
                "plan= or data parallelism that was not searched"
            )
        raise ParplanError(f"{folder}: not there; parplan execute -o {folder} makes it")
    return Execution.from_json(read_json(path), str(path))


def _of_a_script(folder: Path) -> bool:
    """Whether a training script left its plan there, which no command of parplan did."""
    commands = (MANIFEST, UNFINISHED)
    return os.path.exists(folder / "plan.json") and not any(
        os.path.exists(folder / name) for name in commands
    )
