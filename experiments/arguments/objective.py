"""Objective arguments of `parplan plan`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from parplan.errors import ParplanError, unknown_name
from parplan.experiments.arguments.money import DAY_S, PRICE, Bill, add_money_arguments, bill_of
from parplan.experiments.arguments.numbers import finite
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.goal import STEP_TIME, Goal
from parplan.planners.costs.objectives import (
    HOUR_S,
    OBJECTIVES,
    ObjectiveInputs,
    TrainingRun,
    goal_of,
)
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.robust import Disturbance, expected_step
from parplan.sim.step.failures import Failures, best_checkpoint_interval
from parplan.sim.workload import Workload

EXPECTED = "expected-step-time"
FEWEST = "fewest-accelerators"
NAMES = (*OBJECTIVES, EXPECTED, FEWEST)
MTBF, DEADLINE = "--accelerator-mtbf-hours", "--deadline-days"


def add_objective_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what the best plan is."""
    group = parser.add_argument_group("objective")
    group.add_argument(
        "--objective",
        metavar="NAME",
        default="step-time",
        help=f"{', '.join(NAMES)} (default %(default)s); {FEWEST}: --cluster names several, "
        "as in 8xh100,16xh100",
    )
    add_money_arguments(group)
    group.add_argument(
        DEADLINE, type=float, metavar="D", help=f"time limit of the training, for {FEWEST}"
    )
    group.add_argument(
        MTBF, type=float, metavar="H", help="mean time between failures of one accelerator"
    )
    group.add_argument(
        "--restart-s",
        type=float,
        metavar="S",
        default=600.0,
        help="seconds to restart after a failure (default %(default)s)",
    )
    group.add_argument(
        "--checkpoint-s",
        type=float,
        metavar="S",
        default=60.0,
        help="seconds to write a checkpoint (default %(default)s)",
    )
    group.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help="steps between checkpoints (default: the interval that loses the least time)",
    )
    group.add_argument(
        "--noise",
        type=float,
        metavar="S",
        default=0.0,
        help=f"for {EXPECTED}: standard deviation of the logarithm of each computation's time",
    )
    group.add_argument(
        "--straggler",
        metavar="FACTOR:SHARE",
        help=f"for {EXPECTED}: 1.5:0.01 is one rank per pipeline that is 1.5 times slower in 1 %% "
        "of the steps",
    )
    group.add_argument(
        "--pareto",
        action="store_true",
        help="also write the Pareto front of step time and memory (pareto.csv, pareto.png)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The objective that was asked for."""

    name: str
    goal: Goal
    setting: ObjectiveInputs
    currency: str

    def bill(self, best: Trial) -> Bill | None:
        """What the training takes; None where neither its tokens nor a price were given."""
        return bill_of(self.setting, best.step_s or 1.0, self.currency)

    def lines(self, best: Trial) -> list[str]:
        """Lines about the best plan beside its step time; empty where there is nothing to add."""
        if self.name == "step-time":
            return []
        if self.name == EXPECTED:
            step_s = best.step_s or 1.0
            longer = self.goal.key(best) / step_s - 1
            return [f"{EXPECTED}: {self.goal.key(best):.3f} s, {longer:.1%} above an even step"]
        name = "training-time" if self.name == FEWEST else self.name
        line = f"{name}: {value_text(name, OBJECTIVES[name].value(best, self.setting))}"
        failures, run = self.setting.run.failures, self.setting.run
        if failures is None or name in ("head-room", "tokens-per-accelerator"):
            return [line]
        every = run.checkpoint_every or best_checkpoint_interval(best.step_s or 1.0, failures)
        return [f"{line}; a checkpoint every {every} steps"]


def value_text(name: str, value: float) -> str:
    """The value of an objective with its unit."""
    if name == "training-time":
        return f"{value / DAY_S:,.2f} days" if value >= DAY_S else f"{value / HOUR_S:,.2f} hours"
    if name == "head-room":
        return f"{value:.1%} of the memory is free"
    return f"{value:,.0f} {OBJECTIVES[name].unit}".rstrip()


def chosen_objective(args: argparse.Namespace, workload: Workload, cluster: Cluster) -> Chosen:
    """The objective; raises `ParplanError` where something that it needs was not given."""
    if args.objective not in NAMES:
        raise unknown_name("objective", args.objective, NAMES)
    setting = ObjectiveInputs(workload, cluster, _run_of(args, cluster))
    if args.objective == EXPECTED:
        goal = expected_step(workload, cluster, _disturbance(args), seed=args.seed)
        return Chosen(name=EXPECTED, goal=goal, setting=setting, currency=args.currency)
    if args.objective == FEWEST:
        if args.tokens is None or args.deadline_days is None:
            raise ParplanError(f"--objective {FEWEST}: needs --tokens and {DEADLINE}")
        return Chosen(name=FEWEST, goal=STEP_TIME, setting=setting, currency=args.currency)
    try:
        goal = goal_of(args.objective, setting)
    except ParplanError as error:
        raise ParplanError(f"--objective {args.objective}: {_options(str(error))}") from None
    return Chosen(name=args.objective, goal=goal, setting=setting, currency=args.currency)


def _options(message: str) -> str:
    """The message with options in place of the fields that it begins with."""
    for field, option in (
        ("tokens:", "--tokens:"),
        ("price_per_hour:", f"{PRICE}:"),
        ("failures: the goodput", f"{MTBF}: the goodput"),
    ):
        message = message.replace(field, option, 1) if message.startswith(field) else message
    return message


def _run_of(args: argparse.Namespace, cluster: Cluster) -> TrainingRun:
    failures = None
    if args.accelerator_mtbf_hours is not None:
        failures = Failures(
            mean_time_between_s=args.accelerator_mtbf_hours * HOUR_S / cluster.num_accelerators,
            restart_s=args.restart_s,
            checkpoint_s=args.checkpoint_s,
        )
    return TrainingRun(
        tokens=args.tokens,
        price_per_hour=args.price_per_hour,
        failures=failures,
        checkpoint_every=args.checkpoint_every,
    )


def _disturbance(args: argparse.Namespace) -> Disturbance:
    if args.straggler is None:
        if not args.noise:
            raise ParplanError(f"--objective {EXPECTED}: needs --noise or --straggler")
        return Disturbance(noise=args.noise)
    factor, _, share = args.straggler.partition(":")
    try:
        numbers = finite(factor), finite(share)
    except argparse.ArgumentTypeError:
        raise ParplanError(
            f"--straggler: expected FACTOR:SHARE, as in 1.5:0.01; got {args.straggler!r}"
        ) from None
    return Disturbance(noise=args.noise, straggler_factor=numbers[0], straggler_share=numbers[1])


def deadline_s(args: argparse.Namespace) -> float:
    """Seconds until the training has to be done; raises `ParplanError` unless above 0."""
    if not args.deadline_days > 0:
        raise ParplanError(f"{DEADLINE}: must be above 0, got {args.deadline_days:g}")
    return float(args.deadline_days * DAY_S)


def cluster_names(args: argparse.Namespace) -> Sequence[str | None]:
    """The clusters to choose from."""
    if args.objective != FEWEST or args.cluster is None:
        return [args.cluster]
    return [name.strip() for name in args.cluster.split(",")]
