"""Further simulations of a plan by `parplan simulate`: slowed computations, steps in a row."""

import argparse
import math
from dataclasses import dataclass, replace

from parplan.errors import ParplanError
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import Collective, collective_s
from parplan.hardware.network.cluster import Cluster
from parplan.sim.engine.engine import simulate_steps
from parplan.sim.fast.slowdown_evaluator import slowed_run
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.run import Run
from parplan.sim.step.steps import Steps

NORM_BYTES = 4
"""Of the norm of the gradients: one number in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Further simulations of a plan that were asked for."""

    message_slowdown: float | None = None
    """How many times as long computations take while their rank sends or receives."""
    num_steps: int | None = None
    post_validation: bool = False

    def __post_init__(self) -> None:
        slowdown, steps = self.message_slowdown, self.num_steps
        if slowdown is not None and not 1.0 <= slowdown < math.inf:
            raise ParplanError(
                f"--message-slowdown: must be at least 1 (1.2: computations take 1.2 times as "
                f"long), got {slowdown:g}"
            )
        if steps is not None and steps < 1:
            raise ParplanError(f"--steps: must be at least 1, got {steps}")
        if self.post_validation and (steps is None or steps < 2):
            raise ParplanError("--post-validation: needs --steps of at least 2")

    def lines(self, compiled: CompiledPlan, cluster: Cluster, result: Run) -> list[str]:
        """Describe the further simulations beside the predicted `result`, a line each."""
        found = []
        if self.message_slowdown is not None:
            found.append(slowed_line(compiled, result, self.message_slowdown))
        if self.num_steps is not None:
            steps = steps_of(
                compiled,
                cluster,
                self.num_steps,
                post_validation=self.post_validation,
                message_slowdown=self.message_slowdown or 1.0,
            )
            found.append(steps_line(steps, self.post_validation))
        return found


def add_extra_arguments(parser: argparse.ArgumentParser) -> None:
    """`--message-slowdown`, `--steps` and `--post-validation`."""
    parser.add_argument(
        "--message-slowdown",
        type=float,
        metavar="FACTOR",
        help="also simulate computations that take FACTOR times as long while their rank sends or "
        "receives a message between stages (at least 1)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="also simulate N steps in a row, with an all-reduce of the gradients' norm before "
        "each optimizer step, and print the time of the first step and of each further one",
    )
    parser.add_argument(
        "--post-validation",
        action="store_true",
        help="with --steps: optimizers do not wait for the norm of all gradients, which is checked "
        "in the next step (zero bubble, arXiv:2401.10241), so that steps overlap",
    )


def extras_of(args: argparse.Namespace) -> Extras:
    """Read the further simulations from `args`; raises `ParplanError` for values out of range."""
    return Extras(
        message_slowdown=args.message_slowdown,
        num_steps=args.steps,
        post_validation=args.post_validation,
    )


def slowed_line(compiled: CompiledPlan, result: Run, slowdown: float) -> str:
    """Describe the extra time of a step whose messages slow down the computations beside them."""
    slowed = slowed_run(compiled.schedule, compiled.costs, slowdown)
    longer = slowed.step_s - result.step_s
    return (
        f"with computations {slowdown:g} times as long during messages: step "
        f"{slowed.step_s:.4g} s, {longer:.4g} s ({longer / result.step_s:.1%}) longer"
    )


def steps_of(
    compiled: CompiledPlan,
    cluster: Cluster,
    num_steps: int,
    *,
    post_validation: bool = False,
    message_slowdown: float = 1.0,
) -> Steps:
    """Steps in a row, with the norm of the gradients all-reduced over all devices in each."""
    group = group_of(cluster, range(cluster.num_accelerators))
    norm_s = collective_s(Collective(op="all_reduce", num_bytes=NORM_BYTES), group)
    return simulate_steps(
        compiled.schedule,
        [replace(costs, norm_sync_s=norm_s) for costs in compiled.costs],
        num_steps,
        post_validation=post_validation,
        compute_slowdown_during_messages=message_slowdown,
    )


def further_step_s(steps: Steps) -> float:
    """Mean seconds from the end of one step to that of the next, after the first step."""
    if len(steps.ends_s) < 2:
        raise ParplanError("steps: at least 2 are needed for the time of a further one")
    return (steps.ends_s[-1] - steps.ends_s[0]) / (len(steps.ends_s) - 1)


def steps_line(steps: Steps, post_validation: bool) -> str:
    """The times of the first step and of a further one."""
    count, how = len(steps.ends_s), " with post-validation" if post_validation else ""
    line = f"{count} step{'s' if count > 1 else ''} in a row{how}: first {steps.ends_s[0]:.4g} s"
    return line if count < 2 else f"{line}, then {further_step_s(steps):.4g} s each"
