"""Comparison of predicted and measured steps by cause, and over a set of plans."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parplan.backend.execution.result import Executed
from parplan.sim.run import Event, Run

CATEGORIES = (
    "compute",
    "pipeline",
    "data-parallel",
    "tensor-parallel",
    "optimizer",
    "overhead",
)
"""What a step's time goes to. Pipeline: waiting for other stages; overhead: before the first
action, and between the last one and the optimizer."""


def categories(run: Run, exposed_s: Mapping[str, float], *, is_pipeline: bool) -> dict[str, float]:
    """Seconds of a step by category, mean over the ranks; they sum to the step."""
    ranks = max(1, run.num_ranks)
    by_kind = dict.fromkeys(("compute", "data-parallel", "optimizer"), 0.0)
    for event in run.events:
        if (kind := _kind(event)) is not None:
            by_kind[kind] += (event.end_s - event.start_s) / ranks
    begin_s = min((e.start_s for e in run.events if _kind(e) is not None), default=0.0)
    ends = [e.end_s for e in run.events if _kind(e) in ("compute", "data-parallel")]
    steps = [e.start_s for e in run.events if _kind(e) == "optimizer"]
    overhead_s = begin_s + (max(0.0, min(steps) - max(ends)) if steps and ends else 0.0)
    rest_s = run.step_s - sum(by_kind.values()) - overhead_s
    waits = {name: exposed_s.get(name, 0.0) for name in (*CATEGORIES[2:5],)}
    return {
        "compute": by_kind["compute"] - waits["data-parallel"] - waits["tensor-parallel"],
        "pipeline": rest_s if is_pipeline else 0.0,
        "data-parallel": by_kind["data-parallel"] + waits["data-parallel"] + waits["optimizer"],
        "tensor-parallel": waits["tensor-parallel"],
        "optimizer": by_kind["optimizer"] - waits["optimizer"],
        "overhead": overhead_s + (0.0 if is_pipeline else rest_s),
    }


def _kind(event: Event) -> str | None:
    if event.name.startswith("optimizer"):
        return "optimizer"
    if event.name.startswith(("gather", "reduce")):
        return "data-parallel"
    return "compute" if event.stream == "compute" else None


def attribution(executed: Executed) -> dict[str, float]:
    """The error by category: predicted less measured seconds, over the measured step."""
    is_pipeline = executed.plan.num_stages > 1
    predicted, measured = (
        categories(run, exposed_s, is_pipeline=is_pipeline)
        for run, exposed_s in (
            (executed.predicted, executed.predicted_exposed_s),
            (executed.measured, executed.measured_exposed_s),
        )
    )
    step_s = executed.measured.step_s
    return {name: (predicted[name] - measured[name]) / step_s for name in CATEGORIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetComparison:
    """Errors and rank correlation of a set of executed plans."""

    mean_absolute_error: float
    worst_error: float
    worst: Executed
    tau: float | None
    """Kendall's, over the pairs of plans whose steps differ by more than their noise; None: there
    is no such pair."""
    pairs: int
    all_pairs: int
    pick: Executed
    """Predicted to be fastest."""
    best: Executed
    """Measured to be fastest."""
    noise: float
    """Median over the plans of half the middle half of their steps, relative."""
    mean_memory_error: float | None
    """None where no memory was measured, as of the worst."""
    worst_memory_error: float | None

    @property
    def regret(self) -> float:
        """Measured step of the pick over that of the best, minus one."""
        return self.pick.measured.step_s / self.best.measured.step_s - 1


def compare_set(executed: Sequence[Executed]) -> SetComparison:
    """The comparison of at least one plan."""
    worst = max(executed, key=lambda e: abs(e.error))
    memory = [e.memory_error for e in executed if e.memory_error is not None]
    signs = [
        sign
        for a, b in itertools.combinations(executed, 2)
        if (sign := _agreement(a, b)) is not None
    ]
    return SetComparison(
        mean_absolute_error=statistics.mean(abs(e.error) for e in executed),
        worst_error=worst.error,
        worst=worst,
        tau=statistics.mean(signs) if signs else None,
        pairs=len(signs),
        all_pairs=math.comb(len(executed), 2),
        pick=min(executed, key=lambda e: e.predicted.step_s),
        best=min(executed, key=lambda e: e.measured.step_s),
        noise=statistics.median(e.spread for e in executed),
        mean_memory_error=statistics.mean(map(abs, memory)) if memory else None,
        worst_memory_error=max(memory, key=abs, default=None),
    )


def _agreement(a: Executed, b: Executed) -> int | None:
    """1 if the prediction orders two plans as measured, -1 if not; None within their noise."""
    measured = a.measured.step_s - b.measured.step_s
    noise_s = math.hypot(a.spread * a.measured.step_s, b.spread * b.measured.step_s)
    if abs(measured) <= noise_s:
        return None
    predicted = a.predicted.step_s - b.predicted.step_s
    return 1 if predicted * measured > 0 else -1
