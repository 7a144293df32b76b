"""`parplan export`: write a plan as the configuration of training software."""

import argparse
import sys
from pathlib import Path

from parplan.errors import ParplanError
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.interop.exporters.targets import TARGETS
from parplan.experiments.output.folder import OutputFolder
from parplan.sim.plan import check_plan
from parplan.sim.plan_file import read_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan export`."""
    parser.add_argument("plan", type=Path, help="plan.json, as written by parplan plan")
    parser.add_argument("--to", choices=tuple(TARGETS), required=True, help="target software")
    parser.add_argument("--cluster", help="a cluster other than the plan's own")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/export"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the files of the target, and say what it cannot express."""
    plan, workload, planned_for = read_plan(args.plan)
    cluster = requested_cluster(args.cluster or planned_for)
    check_plan(plan, workload, cluster.num_accelerators)
    try:
        exported = TARGETS[args.to](plan, workload, cluster)
    except ParplanError as error:
        raise ParplanError(f"{args.plan}: cannot be exported to {args.to}: {error}") from None
    output = OutputFolder(args.output, args.argv)
    for name, text in exported.files.items():
        output.write_text(name, text)
    print("\n".join(str(output.path / name) for name in exported.files))
    for line in exported.unsaid:
        print(f"parplan: {args.to} does not say: {line}", file=sys.stderr)
    output.write_csv("not_said.csv", [_row(line) for line in exported.unsaid] or [_row(": ")])
    output.write_manifest({"plan": str(args.plan), "to": args.to, "cluster": cluster.name})
    return 0


def _row(line: str) -> dict[str, str]:
    field, _, reason = line.partition(": ")
    return {"field": field, "reason": reason}
