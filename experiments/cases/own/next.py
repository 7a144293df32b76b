"""Choose the configuration to measure next: the one whose prediction is least certain after a fit.

With C the covariance of the constants (Laplace approximation) and j the derivatives of the
logarithm of a step time, its variance is j^T C j (MacKay 1992, Information-based objective
functions for active data selection, section 3: for one further measurement, the largest variance
is the largest gain).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.cases.evaluate import evaluate
from parplan.experiments.cases.own.constants import OWN_CONSTANTS, setting_at
from parplan.experiments.cases.own.fit import WIDE, OwnFit, configuration
from parplan.experiments.cases.own.runs import OwnRun, own_run, slopes
from parplan.experiments.cases.read import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A configuration that could be measured."""

    case: Case
    step_s: float
    """Predicted with the fitted constants."""
    spread: float
    """Standard deviation of the logarithm of the prediction, for what is not known of constants."""
    cause: str
    """The constant that most of it is due to."""
    cause_share: float
    """Of the sum of what the constants would each make uncertain alone."""


def proposals(fit: OwnFit, runs: Sequence[OwnRun], candidates: Sequence[Case]) -> list[Proposal]:
    """The `candidates` that could run and are not among `runs`, the least certain first.

    Those that cannot be laid out, or are predicted not to fit in memory, are left out.
    """
    known = set(map(configuration, runs))
    found = []
    for case in candidates:
        try:
            run = own_run(case)
        except ParplanError:
            continue
        if configuration(run) in known or not evaluate(case).fits:
            continue
        known.add(configuration(run))
        found.append(_proposal(fit, run))
    return sorted(found, key=lambda one: (-one.spread, one.case.id))


def _proposal(fit: OwnFit, run: OwnRun) -> Proposal:
    def log_step(point: np.ndarray) -> float:
        return float(np.log(run.predicted_s(setting_at(fit.start, point))))

    slope = slopes(log_step, fit.point, fit.start, WIDE)
    variance = float(slope @ fit.covariance @ slope)
    parts = slope**2 * np.diag(fit.covariance)
    largest = int(np.argmax(parts))
    return Proposal(
        case=run.case,
        step_s=run.predicted_s(fit.setting),
        spread=variance**0.5,
        cause=OWN_CONSTANTS[largest].name,
        cause_share=float(parts[largest] / parts.sum()) if variance else 0.0,
    )


def neighbours(runs: Sequence[OwnRun]) -> list[Case]:
    """Configurations beside those of `runs`.

    One of the degrees, the micro-batch or recomputation is changed, and the rest of the machine is
    data parallel.
    """
    return [near for run in runs for near in _changed(run)]


def _changed(run: OwnRun) -> Iterator[Case]:
    case, p = run.case, run.case.parallel
    plan = run.request.plan
    here = {
        "tp": plan.tensor_parallel,
        "pp": plan.num_stages,
        "micro_batch": plan.batch_per_device,
    }
    for name, value in here.items():
        for other in (2 * value, value // 2):
            if other < 1:
                continue
            new = {**here, name: other}
            near = replace(p, **new, dp=None, fsdp=None, n_microbatches=None, vpp=None)  # type: ignore[arg-type]
            yield _unmeasured(replace(case, parallel=near), f"{name} {value} -> {other}")
    again = "full" if plan.recomputation == "none" else "none"
    yield _unmeasured(
        replace(case, parallel=replace(p, recompute=again)),
        f"recompute {plan.recomputation} -> {again}",
    )


def _unmeasured(case: Case, change: str) -> Case:
    measured = type(case.measured)()
    return replace(case, id=f"{case.id}, {change}", measured=measured, derived_step_s=None)
