"""`parplan export`: write a plan as the configuration of training software."""

import argparse
import sys
from pathlib import Path

from parplan.errors import ParplanError, unknown_name
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.interop.exporters.exported import Exported
from parplan.experiments.interop.exporters.launchers import LAUNCHERS, with_launcher
from parplan.experiments.interop.exporters.targets import TARGETS
from parplan.experiments.interop.reading.read_back import read_back
from parplan.experiments.output.folder import OutputFolder
from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan, check_plan
from parplan.sim.plan_file import read_plan
from parplan.sim.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan export`."""
    parser.add_argument("plan", type=Path, help="plan.json, as written by parplan plan")
    parser.add_argument("--to", choices=tuple(TARGETS), required=True, help="target software")
    parser.add_argument("--cluster", help="a cluster other than the plan's own")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="also write launch.sh, which starts the configuration on all nodes",
    )
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
    found = exported(plan, workload, cluster, args.to, str(args.plan))
    found = with_launcher(found, args.to, cluster, args.launcher)
    output = OutputFolder(args.output, args.argv)
    for name, text in found.files.items():
        output.write_text(name, text)
    print("\n".join(str(output.path / name) for name in found.files))
    name = next(iter(found.files))
    try:
        print(read_back(found, args.to, plan, workload, cluster, str(output.path / name)))
    except ParplanError as error:
        print(f"parplan: {args.to}: not read back: {error}", file=sys.stderr)
    for line in found.unsaid:
        print(f"parplan: {args.to} does not say: {line}", file=sys.stderr)
    output.write_csv("not_said.csv", [_row(line) for line in found.unsaid] or [_row(": ")])
    output.write_manifest({"plan": str(args.plan), "to": args.to, "cluster": cluster.name})
    return 0


def exported(plan: Plan, workload: Workload, cluster: Cluster, to: str, what: str) -> Exported:
    """The files of a target, by name; `what` begins errors.

    Raises `ParplanError` for a plan that does not match, or that the target cannot express.
    """
    check_plan(plan, workload, cluster.num_accelerators)
    if to not in TARGETS:
        raise unknown_name("target", to, TARGETS)
    try:
        return TARGETS[to](plan, workload, cluster)
    except ParplanError as error:
        raise ParplanError(f"{what}: cannot be exported to {to}: {error}") from None


def _row(line: str) -> dict[str, str]:
    field, _, reason = line.partition(": ")
    return {"field": field, "reason": reason}
