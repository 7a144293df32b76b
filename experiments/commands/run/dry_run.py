"""`parplan dry-run`: run ranks of a large job without the hardware.

Exit code 0: parameters and memory agree; 1: they do not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from parplan.backend.executable import executable_only
from parplan.backend.require import require_torch
from parplan.errors import ParplanError
from parplan.experiments.arguments.numbers import whole
from parplan.sim.cost_model.stages import stage_parameters
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.peak import GB, RankMemory, rank_memory, stage_needs
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.schedules import make_schedule
from parplan.sim.workload import Workload

if TYPE_CHECKING:
    from parplan.backend.execution.dry_run import VirtualRank

PARAMETER_TOLERANCE = 0.01
"""Tensor parallelism keeps normalisations whole, and shards are padded."""


class Predicted(NamedTuple):
    """Simulated memory of one rank of a stage."""

    parameters: float
    memory: RankMemory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan dry-run`."""
    parser.add_argument("plan", type=Path, help="plan.json with any number of ranks")
    parser.add_argument(
        "--stages",
        default="ends",
        help="pipeline ranks to run: ends (the first two and the last), all, or a list such as 0,3",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.15,
        help="largest relative difference of memory that counts as agreement (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the ranks, print the table, say whether all agree."""
    plan, workload, _ = read_plan(args.plan)
    stages = _stages(args.stages, plan)
    if args.tolerance < 0:
        raise ParplanError(f"--tolerance: must not be negative, got {args.tolerance:g}")
    why_not = executable_only(workload, plan.num_devices)
    if reason := why_not(plan):
        raise ParplanError(f"{args.plan}: {reason}")
    require_torch("a dry run")
    from parplan.backend.execution.dry_run import first_ranks, virtual_ranks  # imports torch

    expected = predicted(workload, plan)
    first = first_ranks(plan)
    agree = True
    print(f"{plan.num_devices} ranks; simulated: the first rank of each of {len(stages)} stages")
    print(HEADER)
    for found in virtual_ranks(workload, plan, [first[stage] for stage in stages]):
        own = expected[found.pipeline_rank]
        good = agrees(found, own, args.tolerance)
        agree &= good
        print(_row(found, own, good), flush=True)
    said = "agree" if agree else "do not agree"
    print(
        f"parplan: parameters (to {PARAMETER_TOLERANCE:.0%}) and memory (to {args.tolerance:.0%}) "
        f"{said}; shapes between the stages fit",
        file=sys.stderr,
    )
    return 0 if agree else 1


HEADER = (
    "  rank  stage  parameters predicted        found   memory predicted [GB]  found  difference"
)


def predicted(workload: Workload, plan: Plan) -> list[Predicted]:
    """Return the parameters and the memory of every pipeline rank."""
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    moments = moments_of(schedule)
    memory = rank_memory(stage_needs(workload, plan), moments)
    held = [p.held(plan, plan.zero_stage >= 2) for p in stage_parameters(workload, plan)]
    return [
        Predicted(sum(held[stage] for stage in own.stages), needs)
        for own, needs in zip(moments, memory, strict=True)
    ]


def found_bytes(found: "VirtualRank", expected: Predicted) -> float:
    """Everything on the rank; the optimizer, which is not run, as predicted for its share."""
    optimizer = expected.memory.optimizer_bytes
    return found.parameter_bytes + found.gradient_bytes + found.activation_bytes + optimizer


def agrees(found: "VirtualRank", expected: Predicted, tolerance: float) -> bool:
    """Whether a rank holds what was predicted."""
    parameters = found.parameters / expected.parameters - 1
    memory = found_bytes(found, expected) / expected.memory.total_bytes - 1
    return abs(parameters) <= PARAMETER_TOLERANCE and abs(memory) <= tolerance


def _row(found: "VirtualRank", expected: Predicted, good: bool) -> str:
    memory, total = found_bytes(found, expected), expected.memory.total_bytes
    off = memory / total - 1
    return (
        f"{found.rank:6}  {found.pipeline_rank:5}  {expected.parameters:20,.0f} "
        f"{found.parameters:12,}  {total / GB:22.3f} {memory / GB:6.3f}  {off:+10.1%}"
        + ("" if good else "  differs")
    )


def _stages(text: str, plan: Plan) -> Sequence[int]:
    if text == "all":
        return range(plan.num_stages)
    if text == "ends":
        return sorted({0, min(1, plan.num_stages - 1), plan.num_stages - 1})
    try:
        chosen = sorted({whole(part) for part in text.split(",")})
    except argparse.ArgumentTypeError:
        raise ParplanError(
            f"--stages: expected ends, all, or some as in 0,3; got {text!r}"
        ) from None
    if chosen[0] < 0 or chosen[-1] >= plan.num_stages:
        raise ParplanError(f"--stages: {text}; the plan has 0 to {plan.num_stages - 1}")
    return chosen
