"""Needs and steps of the candidates of AP's logs as sums of terms in the constants of `moai`.

A rank's need is linear in what is kept and reserved, and a step in the reciprocals of rates and in
the seconds that are added: a product takes `flops / (share * peak) * (1 + half_rate / tokens)`. So
a few evaluations of the model give all others, and a fit can try many constants. `check_terms` says
how far the sums are from the model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from parplan.experiments.cases.ap_logs import ApLog, on_platform
from parplan.planners.ap.possible import counted_as, software_of
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.plan_costs import by_lists
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.software.presets import preset

Floats = npt.NDArray[np.float64]
Constants = Mapping[str, Any]
"""By name a number, or an array of as many as there are trials of constants."""

TIMED_TO = 0.92
"""Steps are known of candidates that need at most so much of the memory at the constants that
preset holds: they may fit with others."""


def memory_terms(constants: Constants) -> Floats:
    """The terms of a rank's need, shape [..., 4]."""
    kept = np.asarray(constants["kept_activations"])
    again = kept * constants["selective_keeps"]
    gb = np.asarray(constants["reserved_bytes"]) / 1e9
    return np.stack(np.broadcast_arrays(1.0, kept, again, gb), axis=-1)


def step_terms(constants: Constants) -> Floats:
    """The terms of a step, shape [..., 8]."""
    slow = 1 / np.asarray(constants["product_share"])
    few = slow * constants["half_rate_tokens"] / 100
    again = np.asarray(constants["selective_repeats"])
    message = 100 * np.asarray(constants["message_s"])
    exchange = 1e10 / np.asarray(constants["exchange_bytes_per_s"])
    terms = (1.0, slow, few, again, again * slow, again * few, message, exchange)
    return np.stack(np.broadcast_arrays(*terms), axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTerms:
    """The candidates of a log, in their order."""

    log: ApLog
    plans: Sequence[Plan]
    of_needs: Floats
    """Bytes a term, shape [plans, ranks, terms]; a plan with fewer ranks has its last one again."""
    is_choice: npt.NDArray[np.bool_]
    """Whether a candidate is what AP selected, shape [plans]."""
    groups: Sequence[Sequence[int]]
    """The candidates that the release of the log counts as one, each."""
    unchosen: Sequence[int]
    """The layout that was chosen with selective recomputation, without it."""
    of_steps: Floats
    """Seconds a term, shape [plans, terms]; infinite where no step is known."""

    def needs(self, constants: Constants) -> Floats:
        """Bytes of the fullest rank, over the limit of AP, shape [..., plans]."""
        limit = Options().memory_ratio * self.log.machine.accelerator.memory_bytes
        needs = np.einsum("...t,prt->...pr", memory_terms(constants), self.of_needs)
        return np.asarray(needs.max(axis=-1) / limit)

    def steps_s(self, constants: Constants) -> Floats:
        """Seconds of a step, shape [..., plans]; infinite where none is known."""
        known = np.asarray(np.isfinite(self.of_steps).all(axis=-1))
        steps = step_terms(constants) @ np.where(known[:, None], self.of_steps, 0.0).T
        return np.where(known, steps, np.inf)


def log_terms(log: ApLog, near: Mapping[str, float], width: float) -> LogTerms:
    """The terms of a log, by the model at constants `near`, times at most `width` or over that."""
    points = spread(near, width, 10)
    found = [evaluated(log, point) for point in points]
    ranks = max(len(needs) for needs, _ in found[0])
    needs = np.array([[_padded(n, ranks) for n, _ in rows] for rows in found])
    steps = np.array([[step_s for _, step_s in rows] for rows in found])
    known = np.isfinite(steps).all(axis=0)
    of_steps = _solved(step_terms, points, np.where(known, steps, 0.0))
    plans = log.candidates()
    return LogTerms(
        log=log,
        plans=plans,
        is_choice=np.array([log.is_choice(plan) for plan in plans]),
        groups=_groups(log, plans),
        unchosen=_unchosen(log, plans),
        of_needs=_solved(memory_terms, points, needs),
        of_steps=np.where(known[:, None], of_steps, np.inf),
    )


def _groups(log: ApLog, plans: Sequence[Plan]) -> list[list[int]]:
    found: dict[object, list[int]] = {}
    for number, plan in enumerate(plans):
        found.setdefault(counted_as(plan, log.rule), []).append(number)
    return list(found.values())


def _unchosen(log: ApLog, plans: Sequence[Plan]) -> list[int]:
    chosen = [plan for plan in plans if log.is_choice(plan) and plan.recomputation == "selective"]
    plain = [dataclasses.replace(plan, recomputation="none") for plan in chosen]
    return [plans.index(plan) for plan in plain if plan in plans]


def spread(near: Mapping[str, float], width: float, count: int) -> list[Constants]:
    """Constants around `near`, evenly spread in their logarithms; the same at every call."""
    powers = 2 * qmc.Halton(len(near), scramble=False).random(count + 1)[1:] - 1
    return [
        {n: value * width**p for (n, value), p in zip(near.items(), row, strict=True)}
        for row in powers
    ]


def evaluated(log: ApLog, constants: Constants) -> list[tuple[tuple[float, ...], float]]:
    """By the model, for each candidate: bytes of its ranks and seconds of its step."""
    software = dataclasses.replace(preset(software_of(log.rule)).software, **constants)
    costs = SharedCosts(on_platform(log, software), log.machine)
    plans = log.candidates()
    shipped = SharedCosts(on_platform(log), log.machine)
    wanted = [
        i
        for i, plan in enumerate(plans)
        if log.is_choice(plan) or shipped.judge(plan, TIMED_TO).fits
    ]
    trials = [costs.judge(plan, 1.0) for plan in plans]
    steps = [float("inf")] * len(plans)
    for numbers in by_lists(wanted, lambda i: plans[i]):
        timed = costs.timed([trials[i] for i in numbers])
        for i, trial in zip(numbers, timed, strict=True):
            steps[i] = float("inf") if trial.step_s is None else trial.step_s
    return [(trial.memory_bytes, step) for trial, step in zip(trials, steps, strict=True)]


def _padded(needs: Sequence[float], ranks: int) -> list[float]:
    return [*needs, *[needs[-1]] * (ranks - len(needs))]


def _solved(
    terms: Callable[[Constants], Floats], points: Sequence[Constants], values: Floats
) -> Floats:
    """What `values`, of shape [points, ...], have of each term, of shape [..., terms]."""
    known = np.array([terms(point) for point in points])
    solved = np.linalg.lstsq(known, values.reshape(len(points), -1), rcond=None)[0]
    return np.moveaxis(solved.reshape(known.shape[1], *values.shape[1:]), 0, -1)


def check_terms(terms: LogTerms, constants: Mapping[str, float]) -> float:
    """The largest difference of needs and steps from the model, relatively."""
    found = evaluated(terms.log, constants)
    limit = Options().memory_ratio * terms.log.machine.accelerator.memory_bytes
    needs = np.array([max(needs) for needs, _ in found]) / limit
    steps = np.array([step_s for _, step_s in found])
    known = np.isfinite(steps)
    return float(
        max(
            np.abs(terms.needs(constants) / needs - 1).max(),
            np.abs(terms.steps_s(constants)[known] / steps[known] - 1).max(),
        )
    )
