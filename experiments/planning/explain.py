"""Explanation of the chosen plan: messages and files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parplan.experiments.figures.time_split import figure
from parplan.experiments.output.folder import OutputFolder
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.uncertainty import indistinguishable, interval, pairs_like
from parplan.planners.explain.why import (
    CLOSE,
    Change,
    best_of_kinds,
    binding,
    changes,
    close_trials,
    plan_label,
    without_split,
)
from parplan.planners.spaces.space import Space
from parplan.sim.analysis.residuals import Pairs, Residuals
from parplan.sim.analysis.time_split import TimeSplit, time_split
from parplan.sim.memory.peak import GB
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload

MOST_CLOSE = 10
"""Close plans that are printed."""

DRAWN = 6
"""Plans whose time is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChoice:
    """The chosen plan and the candidates."""

    workload: Workload
    cluster: Cluster
    best: Trial
    trials: Sequence[Trial]
    memory_ratio: float
    space: Space | None = None
    untried_from: float = math.inf
    """No plan that is not among `trials` has a step of fewer seconds."""


def time_splits(choice: PlanChoice) -> dict[str, TimeSplit]:
    """Time split of the chosen plan, then of the best plans of other kinds, by label."""
    splits = {}
    for trial in best_of_kinds(choice.trials, choice.best, DRAWN):
        compiled = compile_plan(choice.workload, choice.cluster, trial.plan)
        found = time_split(choice.workload, choice.cluster, compiled, predict(compiled))
        splits[plan_label(trial.plan)] = found
    return splits


def write_time_split(output: OutputFolder, splits: Mapping[str, TimeSplit]) -> None:
    """`time_split.csv` and `time_split.png`."""
    rows = [
        {"plan": label, "part": part, "seconds": repr(seconds), "share": repr(found.share(part))}
        for label, found in splits.items()
        for part, seconds in found.seconds.items()
    ]
    output.write_csv("time_split.csv", rows)
    output.write_figure("time_split.png", lambda: figure(splits))


class Reasons(NamedTuple):
    """The reasons for the chosen plan."""

    rows: list[dict[str, Any]]
    """Of `why.csv`."""
    binding: str
    """What keeps the plan from being faster."""
    close: str
    """How many plans are about as fast."""
    details: list[str]
    """A line for each single change and for each close plan."""
    changes: tuple[Change, ...]
    """Every single change, the fastest first."""


def reasons_of(choice: PlanChoice, residuals: Residuals) -> Reasons:
    """Cost of every single change of the chosen plan, and the plans that are close to it."""
    best = without_split(choice.best)
    if best != choice.best:
        # Single changes are told from what was searched: even splits.
        best = next((t for t in choice.trials if t.plan == best.plan), best)
    found = changes(
        choice.workload,
        choice.cluster,
        best,
        choice.trials,
        memory_ratio=choice.memory_ratio,
        space=choice.space,
    )
    close = close_trials(choice.trials, best, CLOSE)
    pairs = pairs_like(residuals, choice.cluster)
    same = [] if pairs is None else indistinguishable(choice.trials, best, pairs)
    rows = [_change_row(change) for change in found]
    rows += [_plan_row("close", trial, best) for trial in close]
    rows += [_plan_row("not told apart", trial, best) for trial in same if trial not in close]
    lines = [f"  {change}" for change in found]
    lines += [f"  close: {plan_label(t.plan)}: {_slower(t, best)}" for t in close[:MOST_CLOSE]]
    if len(close) > MOST_CLOSE:
        lines.append(f"  {len(close) - MOST_CLOSE} more that are close are in why.csv")
    said = _close_line(close, same, pairs, choice.untried_from / (best.step_s or 1.0))
    return Reasons(rows, binding(found), said, lines, found)


def _slower(trial: Trial, best: Trial) -> str:
    return f"{(trial.step_s or 0.0) / (best.step_s or 1.0) - 1:.1%} slower"


def _close_line(
    close: Sequence[Trial], same: Sequence[Trial], pairs: Pairs | None, untried_from: float
) -> str:
    """`untried_from`: as a multiple of the best step."""
    number = _number(len(close), "no", untried_from >= 1 + CLOSE)
    line = f"{number} other plan{'s' * (len(close) > 1)} within {CLOSE:.0%}"
    if pairs is None:
        return line
    number = _number(len(same), "none", pairs.apart <= untried_from)
    return (
        f"{line}; {number} within {pairs.apart - 1:.0%}, which cannot be told apart: "
        f"of {pairs.pairs} published pairs of like plans, 80 % were predicted that closely"
    )


def _number(found: int, none: str, all_known: bool) -> str:
    """A number of plans, of which more may not have been tried."""
    if all_known:
        return str(found or none)
    return f"at least {found}" if found else f"{none} known"


def _change_row(change: Change) -> dict[str, Any]:
    return {
        "kind": "change",
        "field": change.field,
        "from": change.before,
        "to": change.after,
        "plan": plan_label(change.trial.plan),
        "step_s": repr(change.trial.step_s),
        "extra_s": repr(change.extra_s),
        "extra_percent": f"{100 * change.extra_share:.3f}",
        "fits": change.fits,
        "missing_gb": f"{change.missing_bytes / GB:.3f}",
        "fullest": change.fullest,
        "verdict": change.verdict,
    }


def _plan_row(kind: str, trial: Trial, best: Trial) -> dict[str, Any]:
    own_s, step_s = best.step_s or 1.0, trial.step_s or 0.0
    return {
        "kind": kind,
        "field": "",
        "from": "",
        "to": "",
        "plan": plan_label(trial.plan),
        "step_s": repr(step_s),
        "extra_s": repr(step_s - own_s),
        "extra_percent": f"{100 * (step_s / own_s - 1):.3f}",
        "fits": True,
        "missing_gb": "0.000",
        "fullest": "",
        "verdict": _slower(trial, best),
    }


def past_accuracy(choice: PlanChoice, residuals: Residuals, step_s: float) -> dict[str, Any]:
    """The intervals around a predicted step, by the runs that they are from."""
    found: dict[str, Any] = {}
    for pool in ("reported", "calibration"):
        one = interval(residuals, choice.cluster, choice.best.plan, step_s, pool)
        if one is not None:
            found[pool] = {
                "low_s": one.low_s,
                "median_s": one.like.median * step_s,
                "high_s": one.high_s,
                "family": one.like.family,
                "setup": one.like.setup,
                "runs": one.like.runs,
                "sources": one.like.sources,
            }
    return found
