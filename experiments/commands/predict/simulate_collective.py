"""`parplan simulate --collective`: a collective message by message, beside its closed form."""

import argparse
import math
import sys
from dataclasses import dataclass

from parplan.errors import ParplanError, unknown_name
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.output.folder import OutputFolder
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import AlgorithmChoice, Collective, choose
from parplan.hardware.network.cluster import Cluster
from parplan.sim.cluster.collective_simulation import (
    CollectiveRun,
    GroupCollective,
    simulate_collectives,
)
from parplan.sim.cluster.collective_steps import ALGORITHMS

OPS = tuple(sorted({op.replace("_", "-") for _, op in ALGORITHMS}))
"""The collectives that can be simulated, as the command line names them."""

MOST_RANKS = 256
"""Of a group: the messages of a ring grow with the square of its ranks."""

OF_PLANS = (
    *("plan", "schedule", "slow", "fragmented_share", "memory_snapshot", "measured"),
    *("measured_step", "message_slowdown", "steps", "post_validation"),
)
"""Arguments that say something about a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedGroups:
    """A collective of all groups at once, and what the closed forms say of one of them."""

    op: str
    num_bytes: float
    num_groups: int
    group_size: int
    simulated: CollectiveRun
    closed: AlgorithmChoice
    """By the algorithm that was simulated, the fastest of those that can be."""
    library: AlgorithmChoice
    """By the fastest algorithm of a collective library, which may not be simulated here."""

    def __str__(self) -> str:
        groups = f"{self.num_groups} groups" if self.num_groups > 1 else "one group"
        lines = [
            f"{self.op} of {self.num_bytes:.4g} bytes, {groups} of {self.group_size} ranks, by "
            f"{self.closed.algorithm}",
            f"message by message: {max(self.simulated.seconds):.4g} s "
            f"({self.simulated.num_messages} messages; plain latencies and bandwidths)",
            f"closed form: {self.closed.seconds:.4g} s ({self.closed.protocol} protocol, with "
            "launch times and the share of the bandwidth that libraries reach)",
        ]
        if self.library.algorithm != self.closed.algorithm:
            lines.append(
                f"a library would choose {self.library.algorithm}: {self.library.seconds:.4g} s "
                "by closed form"
            )
        return "\n".join(lines)


def add_collective_arguments(parser: argparse.ArgumentParser) -> None:
    """`--collective`, `--bytes` and `--group-size`."""
    parser.add_argument(
        "--collective",
        metavar="OP",
        help=f"in place of a plan, simulate a collective on --cluster message by message: "
        f"{', '.join(OPS)}",
    )
    parser.add_argument(
        "--bytes",
        type=float,
        metavar="BYTES",
        help="with --collective: its size, as nccl-tests counts it",
    )
    parser.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="with --collective: groups of N consecutive ranks, all at once (default: one group "
        "of all ranks)",
    )


def check_collective_arguments(args: argparse.Namespace) -> None:
    """Raise `ParplanError` unless a plan or a collective is asked for, with what it needs."""
    if args.collective is None:
        for name in ("bytes", "group_size"):
            if getattr(args, name) is not None:
                raise ParplanError(f"--{name.replace('_', '-')}: needs --collective")
        if args.plan is None:
            raise ParplanError("a plan.json (as written by parplan plan) or --collective is needed")
        return
    for name in OF_PLANS:
        value = getattr(args, name)
        # A number that is 0 is given as well, but for a share whose default it is.
        if value or (type(value) in (int, float) and name != "fragmented_share"):
            flag = "the plan" if name == "plan" else f"--{name.replace('_', '-')}"
            raise ParplanError(f"--collective: is simulated without a plan; leave out {flag}")
    if args.bytes is None:
        raise ParplanError("--collective: needs --bytes, such as --bytes 1e9")


def run_collective(args: argparse.Namespace) -> int:
    """Simulate the collective, print its times, write the bytes over each link."""
    cluster = requested_cluster(args.cluster, software=args.software)
    found = simulate_groups(cluster, args.collective, args.bytes, args.group_size)
    print(found)
    output = OutputFolder(args.output, args.argv)
    rows = [{"link": n, "bytes": f"{b:.0f}"} for n, b in found.simulated.link_bytes.items()]
    output.write_csv("links.csv", rows)
    output.write_manifest({"cluster": cluster.name})
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def simulate_groups(
    cluster: Cluster, op: str, num_bytes: float, group_size: int | None = None
) -> SimulatedGroups:
    """Simulate `op` in all groups of `group_size` consecutive ranks (None: one group of all).

    The algorithm is the fastest simulated one by closed form. Raises `ParplanError`
    for an unknown `op`, a size that is not positive, or groups that do not fill the cluster.
    """
    name = op.lower().replace("_", "-")
    if name not in OPS:
        raise unknown_name("collective", op, OPS)
    if not 0 < num_bytes < math.inf:
        raise ParplanError(f"--bytes: must be positive and finite, got {num_bytes:g}")
    ranks = cluster.num_accelerators
    size = ranks if group_size is None else group_size
    if not 2 <= size <= ranks or ranks % size:
        raise ParplanError(
            f"--group-size: must be at least 2 and divide the {ranks} ranks of {cluster.name}, "
            f"got {size}"
        )
    if size > MOST_RANKS:
        raise ParplanError(
            f"--group-size: at most {MOST_RANKS} ranks are simulated message by message, got {size}"
        )
    collective = Collective(op=name.replace("-", "_"), num_bytes=num_bytes)
    group = group_of(cluster, range(size))
    possible = [algorithm for algorithm, does in ALGORITHMS if does == collective.op]
    closed = choose(collective, group, possible)
    groups = [
        GroupCollective(
            collective=collective,
            ranks=range(first, first + size),
            algorithm=closed.algorithm,
        )
        for first in range(0, ranks, size)
    ]
    return SimulatedGroups(
        op=name,
        num_bytes=num_bytes,
        num_groups=len(groups),
        group_size=size,
        simulated=simulate_collectives(cluster, groups),
        closed=closed,
        library=choose(collective, group),
    )
