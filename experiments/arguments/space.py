"""Search space arguments: `--space` and the search options."""

import argparse
from dataclasses import replace
from pathlib import Path

from parplan.backend.executable import executable_only
from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import read_constraints
from parplan.planners.spaces.everything import (
    everything,
    executable_part,
    with_options,
    without_limits,
)
from parplan.planners.spaces.make import full_space, make_space
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Space
from parplan.sim.workload import Workload

NAMES = ("everything", "full", "ap")
"""Spaces that have names."""

IN_THE_FILE = (
    *("num_stages", "num_micro_batches", "activation_recomputation", "distribute_parameter"),
)
"""Options that a file of constraints has keys for."""


def space_name(text: str) -> str:
    """`everything`, `full`, `ap`, or a TOML file."""
    if text in NAMES or text.endswith(".toml"):
        return text
    raise argparse.ArgumentTypeError(f"expected {', '.join(NAMES)} or a TOML file, got {text!r}")


def requested_space(
    args: argparse.Namespace,
    workload: Workload,
    cluster: Cluster,
    options: Options,
    *,
    offloading: bool = False,
) -> Space:
    """The space that `--space` names, but for `ap`, whose candidates are a list.

    With `--executable`, plans that cannot be executed are not possible. `offloading`: everything
    has that as well. Raises `ParplanError` where it is empty, or where a file and an option say the
    same.
    """
    if args.space == "ap":
        raise ParplanError("--space ap: a planner needs everything, full, or a TOML file")
    why_not = None
    if getattr(args, "executable", False):
        why_not = executable_only(workload, cluster.num_accelerators)
    if args.space == "full":
        return replace(full_space(workload, cluster, options), why_not=why_not)
    if args.space == "everything":
        allowed = with_options(everything(workload, cluster, offloading=offloading), options)
        try:
            return make_space(
                workload, cluster, executable_part(allowed) if why_not else allowed, why_not
            )
        except ParplanError:
            more = without_limits(allowed)
            return make_space(
                workload, cluster, executable_part(more) if why_not else more, why_not
            )
    for name in IN_THE_FILE:
        if getattr(args, name, None) is not None:
            raise ParplanError(f"--{name.replace('_', '-')}: {args.space} says what is searched")
    constraints = read_constraints(Path(args.space))
    if getattr(args, "memory_ratio_percent", None) is not None:
        constraints = replace(constraints, memory_ratio=options.memory_ratio)
    return make_space(workload, cluster, constraints, why_not)
