"""`parplan simulate`: one plan, played by the simulator."""

import argparse
import dataclasses
import sys
from pathlib import Path

from parplan.experiments.figures import gantt
from parplan.experiments.output import OutputFolder
from parplan.experiments.request import requested_cluster
from parplan.hardware.errors import ParplanError
from parplan.sim.instructions import Schedule, computations, read_program, write_csv
from parplan.sim.memory import GB, stage_memory
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.predict import CompiledPlan, compile_plan, predict
from parplan.sim.run import Run
from parplan.sim.timeline import chrome_trace
from parplan.sim.validate import check_program
from parplan.sim.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan simulate`."""
    parser.add_argument("plan", type=Path, help="a plan.json")
    parser.add_argument("--cluster", help="another cluster than the one that was planned for")
    parser.add_argument(
        "--schedule",
        type=Path,
        help="a CSV of instruction lists, one row per pipeline rank (0F0,1F0,0B0, ...)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/simulate"), help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Simulate, print a summary, write."""
    plan, workload, planned_for = read_plan(args.plan)
    cluster = requested_cluster(args.cluster or planned_for)
    compiled = compile_plan(workload, cluster, plan)
    if args.schedule is not None:
        compiled = _with_schedule(compiled, workload, args.schedule)
    output = OutputFolder(args.output, args.argv)
    result = predict(compiled)
    print(summary(compiled, result))
    output.write_text("schedule.csv", write_csv(compiled.schedule))
    output.write_json("timeline.json", chrome_trace({"predicted": result}))
    output.write_figure("gantt.png", gantt({"predicted": result}))
    inputs = {"plan": str(args.plan), "cluster": cluster.name, "schedule": str(args.schedule)}
    output.write_manifest(inputs)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _with_schedule(compiled: CompiledPlan, workload: Workload, path: Path) -> CompiledPlan:
    """The same plan with the instruction lists of a file."""
    schedule = _read_schedule(path, compiled.plan)
    memory = stage_memory(workload, compiled.plan, schedule)
    return dataclasses.replace(compiled, schedule=schedule, memory=memory)


def _read_schedule(path: Path, plan: Plan) -> Schedule:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParplanError(f"{path}: cannot be read: {error}") from None
    program = read_program(text, str(path))
    if len(program) != plan.num_stages:
        raise ParplanError(
            f"{path}: {len(program)} rows, but the plan has num_stages {plan.num_stages}"
        )
    try:
        check_program(program, plan.total_stages, plan.num_micro_batches)
    except ParplanError as error:
        raise ParplanError(f"{path}: {error}") from None
    return computations(program)


def summary(compiled: CompiledPlan, result: Run) -> str:
    """Step, bubble, and each stage's busy time and memory."""
    lines = [f"step {result.step_s:.4g} s, bubble {result.bubble:.1%}"]
    lines += [
        f"rank {rank}: computes {result.busy_s(rank):.4g} s" for rank in range(result.num_ranks)
    ]
    lines += [
        f"stage {stage}: {memory.total_bytes / GB:.1f} GB ({memory})"
        for stage, memory in enumerate(compiled.memory)
    ]
    return "\n".join(lines)
