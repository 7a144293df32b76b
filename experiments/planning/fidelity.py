"""`parplan plan --check` and `--measure`: the best plans again, at levels of rising fidelity."""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise

from parplan.errors import ParplanError
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.fidelity import (
    Level,
    Outcome,
    Standing,
    bounds_level,
    compared,
    contended_level,
    exact_level,
)
from parplan.planners.explain.why import plan_label
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

CHECKED = 8
"""Plans that are compared where `--measure` is given alone."""


def add_fidelity_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for checking the best plans by simulation."""
    group = parser.add_argument_group("check")
    group.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="re-evaluate the N best plans at rising fidelity (bound, exact step, all replicas "
        "over shared links), keep the better half at each level (levels.csv), choose by the last",
    )
    group.add_argument(
        "--measure",
        action="store_true",
        help=f"then execute the remaining plans on this machine (with --profile or --cluster "
        f"here); starts from {CHECKED} plans, or --check N",
    )


def check_arguments(args: argparse.Namespace, cluster: Cluster) -> None:
    """Raise `ParplanError` for what cannot be checked, before the search."""
    if args.check is not None and args.check < 1:
        raise ParplanError(f"--check: at least 1 plan, got {args.check}")
    if args.measure and cluster.measured is None:
        raise ParplanError(
            "--measure: runs plans here, so plan for this machine: --profile FILE, or "
            "--cluster here"
        )


def checked(
    args: argparse.Namespace,
    output: OutputFolder,
    workload: Workload,
    cluster: Cluster,
    trials: Sequence[Trial],
    note: Callable[[str], None],
) -> Trial | None:
    """The plan that is best at the highest level; None where no check is asked for."""
    if args.check is None and not args.measure:
        return None
    possible = {trial.plan: trial for trial in trials if trial.step_s is not None}
    best = sorted(possible.values(), key=STEP_TIME.key)[: args.check or CHECKED]
    levels: dict[str, Level] = {
        "bound": bounds_level(workload, cluster),
        "exact": exact_level(workload, cluster),
        "shared links": contended_level(workload, cluster),
    }
    if args.measure:
        levels["measured"] = _measured_level(workload, cluster, note)
    progress = ProgressLine()
    standings = compared([trial.plan for trial in best], levels, progress)
    progress.end()
    output.write_csv("levels.csv", [_row(s, list(levels)) for s in standings])
    for line in lines(standings, list(levels)):
        note(line)
    return possible[standings[0].plan]


def _measured_level(workload: Workload, cluster: Cluster, note: Callable[[str], None]) -> Level:
    # Imported here: it needs torch.
    from parplan.backend.executable import why_not_executable
    from parplan.backend.execution.execute import execute

    def level(plans: Sequence[Plan]) -> dict[Plan, Outcome]:
        processes = cluster.num_accelerators
        found: dict[Plan, Outcome] = {p: why_not_executable(p, processes) for p in plans}
        possible = [plan for plan, reason in found.items() if not reason]
        if possible:
            execution = execute(workload, processes, possible, report=note)
            measured = {e.plan: e.measured.step_s for e in execution.executed}
            found.update((plan, measured[plan]) for plan in possible)
        return found

    return level


def _row(standing: Standing, levels: Sequence[str]) -> dict[str, str]:
    row = {"plan": plan_label(standing.plan)}
    for name in levels:
        outcome = standing.outcomes.get(name, "")
        row[f"{name.replace(' ', '_')}_s"] = outcome if isinstance(outcome, str) else repr(outcome)
    return row


def lines(standings: Sequence[Standing], levels: Sequence[str]) -> list[str]:
    """A table of the plans at every level, and how far the levels are from each other."""
    width = max(len(plan_label(s.plan)) for s in standings)
    found = [f"{'plan':{width}}" + "".join(f"{name:>14}" for name in levels)]
    for standing in standings:
        cells = "".join(f"{_cell(standing.outcomes.get(name)):>14}" for name in levels)
        found.append(f"{plan_label(standing.plan):{width}}{cells}")
    for before, name in pairwise(levels):
        changes = [c for s in standings if (c := s.change(name)) is not None]
        if changes:
            found.append(
                f"{name} against {before}: {min(changes):+.1%} to {max(changes):+.1%} of "
                f"{len(changes)} plan{'s' * (len(changes) > 1)}"
            )
    reasons = {
        outcome: name
        for s in standings
        for name, outcome in s.outcomes.items()
        if isinstance(outcome, str)
    }
    found += [f"not at the level {name}: {reason}" for reason, name in reasons.items()]
    return found


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return "-" if isinstance(outcome, str) else f"{outcome:.4g} s"
