"""Plans near the chosen one: what each would gain or lose, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parplan.experiments.planning.explain import PlanChoice
from parplan.planners.costs.goal import Goal
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.plan_words import SEPARATOR, plan_parts, words_that_differ
from parplan.planners.explain.why import EQUAL, Change, OtherPlan
from parplan.sim.analysis.time_split import BUBBLE, PARTS, TimeSplit, time_split
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict

NEAREST = 3
"""Alternatives that a summary names."""

MAIN = 0.25
"""Parts of the step are named from such a share of all that grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative(OtherPlan):
    """A plan that was not chosen, and why."""

    differs: str
    """What its line says otherwise than that of the chosen plan."""
    reason: str


def nearest(
    choice: PlanChoice, changes: Sequence[Change], goal: Goal, own: TimeSplit
) -> list[Alternative]:
    """The change that would be faster but does not fit, lacking least; then the best that fit.

    Of plans that differ only in what they recompute, and in how many layers, the best. `own`: where
    the time of the chosen plan goes.
    """
    best = choice.best
    lacking = [c for c in changes if not c.fits and c.extra_share <= -EQUAL]
    found = []
    if lacking:
        least = min(lacking, key=lambda change: change.missing_bytes)
        found.append(_lacking(best, least))
    said = {_kind(best.plan)}
    fitting = [t for t in (*choice.trials, *(c.trial for c in changes)) if t.fits]
    for trial in sorted((t for t in fitting if t.step_s is not None), key=goal.key):
        if len(found) == NEAREST:
            break
        kind = _kind(trial.plan)
        if kind not in said:
            said.add(kind)
            found.append(_fitting(choice, trial, own))
    return found


def _kind(plan: Plan) -> str:
    """The line of a plan with no more of its recomputation than the level."""
    return SEPARATOR.join((plan_parts(plan) | {"recomputation": plan.recomputation}).values())


def _lacking(best: Trial, change: Change) -> Alternative:
    return Alternative(
        trial=change.trial,
        differs=words_that_differ(best.plan, change.trial.plan),
        extra_share=change.extra_share,
        missing_bytes=change.missing_bytes,
        fullest=change.fullest,
        reason=f"does not fit: {change.fullest} lacks {change.missing}",
    )


def _fitting(choice: PlanChoice, trial: Trial, own: TimeSplit) -> Alternative:
    compiled = compile_plan(choice.workload, choice.cluster, trial.plan)
    split = time_split(choice.workload, choice.cluster, compiled, predict(compiled))
    return Alternative(
        trial=trial,
        differs=words_that_differ(choice.best.plan, trial.plan),
        extra_share=(trial.step_s or 0.0) / (choice.best.step_s or 1.0) - 1,
        reason=why_slower(own, split),
    )


def why_slower(own: TimeSplit, other: TimeSplit) -> str:
    """The parts of the step that grow most, and the one that shrinks most where it matters."""
    before, after = grouped(own), grouped(other)
    grows = {part: after[part] - before[part] for part in before}
    total = sum(value for value in grows.values() if value > 0) or 1.0
    named = sorted((p for p in grows if grows[p] >= MAIN * total), key=lambda p: -grows[p])[:2]
    least = min(grows, key=lambda part: grows[part])
    named += [least] if grows[least] <= -MAIN * total else []
    return ", ".join(f"{part} {_signed(grows[part])}" for part in named)


def grouped(split: TimeSplit) -> Mapping[str, float]:
    """Seconds by part of the step, with the causes of the bubble as one part."""
    seconds = {part: split.seconds[part] for part in PARTS if part not in BUBBLE}
    return seconds | {"bubble": sum(split.seconds[part] for part in BUBBLE)}


def _signed(seconds: float) -> str:
    scale, unit = (1.0, "s") if abs(seconds) >= 0.1 else (1e3, "ms")
    return f"{seconds * scale:+.3g} {unit}"
