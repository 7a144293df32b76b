"""Fitting the constants of `moai`, the stack that Advanced Parallelization belongs to.

Memory first: where the counts of possible candidates put the limit among their needs, that AP's
choice fits, and the memory that was read. Then time: published steps, and that no candidate that
fits is faster than AP's choice. Logs that contradict each other would pull a sum of squares; so
the errors of a log are bounded, and the median of readings and of steps counts beside them.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import differential_evolution, minimize

from parplan.errors import ParplanError
from parplan.experiments.cases.ap_logs import ApLog
from parplan.experiments.fits.ap_terms import Constants, Floats, LogTerms, check_terms, log_terms
from parplan.planners.spaces.options import Options

MEMORY = {
    "kept_activations": (1.0, 3.5),
    "selective_keeps": (0.05, 0.6),
    "reserved_bytes": (0.0, 8e9),
}
TIME = {
    "product_share": (0.2, 0.5),
    "half_rate_tokens": (30.0, 400.0),
    "selective_repeats": (0.2, 1.0),
    "message_s": (0.0, 0.1),
    "exchange_bytes_per_s": (12.5e9, 50e9),
}
"""The constants, and what they can be. Kept: at least what the backward reads. What keeps a fifth
of the activations computes at least a fifth of a forward again. Exchanges: from one link of 100
Gbit/s to one of 400."""

NEAR = {
    **{"kept_activations": 2.0, "selective_keeps": 0.2, "reserved_bytes": 2e9},
    **{"product_share": 0.3, "half_rate_tokens": 150.0, "selective_repeats": 0.3},
    **{"message_s": 0.01, "exchange_bytes_per_s": 25e9},
}
"""Where the model is evaluated, each times or over `WIDTH`: needs and steps are sums of terms, so
that these say what all other constants give (`ap_terms.py`)."""
WIDTH = 2.0
EXACT = 1e-6
"""How far the sums may be from the model at the constants that are found."""

GENERATIONS, POPULATION = 60, 8
"""Of the search by differential evolution; the population for each constant."""

MARGIN = 0.02
"""How far from the limit, relatively, what does (not) fit should be."""
MISCOUNTED = 0.03
"""What a candidate too many or too few costs, beside the distance from the limit."""
READING, READING_BOUND = 0.1, 0.3
"""Weight of a reading of memory, which is of another moment than the verdict, and how much of its
error, in logarithms, counts at most."""
MEDIAN_READING = 2.5
"""Weight of the median of their errors."""
UNCHOSEN = 0.3
"""Weight of what AP did not choose, as must not have fitted."""
STEP, TIME_BOUND = 0.3, 0.15
"""Weight of a step's error beside by how much AP's choice is slower than another plan, and how much
of both counts at most."""
MEDIAN_STEP = 1.0
"""Weight of the median of the steps' errors."""
SLOWER = 0.02
"""What a choice costs that is slower by more than a per cent."""
MOST = 0.5
"""No log costs more: some contradict each other."""

ABOUT = "the stack of Moreh's MoAI Platform, as the logs of Advanced Parallelization show it"

HEAD = """
# The stack that Advanced Parallelization belongs to, read by parplan.sim.software.presets. It is
# fitted to logs of one platform and stands for no other; written by `parplan validate --fit-ap`.
"""

ASSUMED = "found in the published logs: counts of possible candidates, choices and steps"
BY_BLOCKS = "found in the published logs: of what is recomputed whole, a block at a time is there"
SCORES = (
    "found in the published logs: recomputation is chosen where, without it, the same layout would "
    "be faster, so that it must not have fitted"
)
FIXED: dict[str, tuple[bool | str | float, str]] = {
    "framework": ("none", "what it costs beside kernels is in product_share and message_s"),
    "pipelines_reduce_once": (True, "assumed: gradients are added up over the micro-batches"),
    "recomputes_stages": (True, f"{ASSUMED}; without a pipeline it needs as much as none"),
    "loss_in_place": (True, f"{ASSUMED}: 4 bytes a logit"),
    "whole_gradients": (0.5, f"{ASSUMED}: about a byte a parameter"),
    "exposed_exchanges": (True, f"{ASSUMED}: it never chooses what hides exchanges"),
}
EARLIER: dict[str, tuple[bool | str | float, str]] = {
    "recomputes_stages": (False, BY_BLOCKS),
    "attention": ("unfused", SCORES),
}

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogErrors:
    """How constants explain one log."""

    miscounted: int
    """Possible candidates beyond the published number."""
    slower: float
    """By how much AP's choice is slower than the fastest that fits, relatively."""
    step: float | None
    memory: float | None


def fit_platform(logs: Sequence[ApLog], report: Report = lambda line: None) -> dict[str, float]:
    """The constants that explain `logs` best; the same at every call.

    Reports how they explain the logs, and how each log is explained by constants that are fitted to
    the others. Raises `ParplanError` for a log that is held out.
    """
    if held_out := [log.id for log in logs if not log.fitted]:
        raise ParplanError(f"fit: {', '.join(held_out)}: held out, not to be fitted to")
    terms = [log_terms(log, NEAR, WIDTH) for log in logs]
    found = _fitted(terms, lambda cost, bounds: _evolved(cost, bounds))
    off = max(check_terms(own, found) for own in terms)
    if off > EXACT:
        raise ParplanError(f"fit: sums of terms are {off:.1e} off the model")
    report(f"constants: {_said(found)}")
    report(f"fitted: {summary([errors_of(own, found) for own in terms])}")
    if len(terms) > 1:
        left_out = [errors_of(own, _without(own, terms, found)) for own in terms]
        report(f"each by constants fitted to the others: {summary(left_out)}")
    return found


Search = Callable[[Callable[[Constants], Floats], Mapping[str, tuple[float, float]]], list[float]]


def _fitted(terms: Sequence[LogTerms], search: Search) -> dict[str, float]:
    memory = _named(MEMORY, search(lambda c: memory_cost(terms, c), MEMORY))
    needs = [own.needs(memory) for own in terms]
    return memory | _named(TIME, search(lambda c: time_cost(terms, needs, c), TIME))


def _named(bounds: Mapping[str, object], values: Sequence[float]) -> dict[str, float]:
    return {name: float(f"{x:.3g}") for name, x in zip(bounds, values, strict=True)}


def _columns(bounds: Mapping[str, object], x: Floats) -> dict[str, Floats]:
    return dict(zip(bounds, x, strict=True))


def _evolved(
    cost: Callable[[Constants], Floats], bounds: Mapping[str, tuple[float, float]]
) -> list[float]:
    options: Any = {
        **{"seed": 0, "vectorized": True, "updating": "deferred", "polish": False},
        **{"maxiter": GENERATIONS, "popsize": POPULATION},
    }

    def of(x: Any) -> Any:
        return cost(_columns(bounds, x))

    ranges: Any = list(bounds.values())
    found = differential_evolution(of, ranges, **options)
    return [float(value) for value in found.x]


def _without(
    own: LogTerms, terms: Sequence[LogTerms], found: Mapping[str, float]
) -> dict[str, float]:
    """The constants that the other logs give, from those of all on."""

    def near(
        cost: Callable[[Constants], Floats], bounds: Mapping[str, tuple[float, float]]
    ) -> list[float]:
        scale = np.array([found[name] or high / 20 for name, (_, high) in bounds.items()])
        limits: Any = [
            (low / s, high / s) for (low, high), s in zip(bounds.values(), scale, strict=True)
        ]
        corners = np.vstack([np.ones(len(scale)), 1 + 0.15 * np.eye(len(scale))])

        def of(x: Any) -> float:
            return float(cost(_columns(bounds, (x * scale)[:, None]))[0])

        options: Any = {"initial_simplex": corners, "maxfev": 120}
        best = minimize(of, corners[0], method="Nelder-Mead", bounds=limits, options=options)
        return [float(value) for value in best.x * scale]

    return _fitted([other for other in terms if other is not own], near)


def _said(constants: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in constants.items())


def _bounded(error: Floats, bound: float) -> Floats:
    """About `error` where it is small, never `bound`."""
    return error / (1 + error / bound)


def memory_cost(terms: Sequence[LogTerms], constants: Constants) -> Floats:
    """How badly memory agrees with logs, of every one of the constants."""
    total: Floats = np.zeros(1)
    readings: list[Floats] = []
    for own in terms:
        needs = np.log(own.needs(constants))
        choice = needs[:, own.is_choice].min(axis=-1)
        cost = _verdict_cost(own, needs, choice)
        if (reading := _reading(own)) is not None:
            error = np.abs(choice - math.log(reading))
            cost = cost + READING * _bounded(error, READING_BOUND)
            readings.append(np.abs(np.exp(choice) / reading - 1))
        total = total + np.minimum(MOST, cost)
    return total + MEDIAN_READING * np.asarray(np.median(readings, axis=0)) if readings else total


def _reading(own: LogTerms) -> float | None:
    """The memory that was read, over the limit of AP."""
    limit = Options().memory_ratio * own.log.machine.accelerator.memory_bytes
    return None if own.log.memory_gib is None else own.log.memory_gib * 2**30 / limit


def _verdict_cost(own: LogTerms, needs: Floats, choice: Floats) -> Floats:
    """`needs`: logarithms of what they are over the limit, shape [constants, plans]."""
    possible = own.log.num_possible
    counted = np.sort([needs[:, group].min(axis=-1) for group in own.groups], axis=0)
    cost = np.maximum(0.0, np.maximum(counted[possible - 1], choice) + MARGIN)
    cost += np.maximum(0.0, choice + MARGIN)
    if possible < len(counted):
        cost += np.maximum(0.0, MARGIN - counted[possible])
    for number in own.unchosen:
        # The same layout is faster without recomputation, and would be chosen if it fitted.
        cost += UNCHOSEN * np.maximum(0.0, MARGIN - needs[:, number])
    off = np.abs((counted <= 0).sum(axis=0) - possible)
    return np.asarray(cost + MISCOUNTED * np.minimum(3, off))


def time_cost(terms: Sequence[LogTerms], needs: Sequence[Floats], constants: Constants) -> Floats:
    """How badly steps agree with logs whose candidates need so much."""
    total: Floats = np.zeros(1)
    errors: list[Floats] = []
    for own, need in zip(terms, needs, strict=True):
        steps = own.steps_s(constants)
        choice = steps[:, own.is_choice].min(axis=-1)
        best = np.where(need <= 1, steps, np.inf).min(axis=-1)
        gap = np.maximum(0.0, np.log(choice / best))
        total = total + _bounded(gap, TIME_BOUND) + SLOWER * (gap > math.log(1.01))
        if own.log.step_s is not None:
            off = choice / own.log.step_s
            total = total + STEP * _bounded(np.abs(np.log(off)), TIME_BOUND)
            errors.append(np.abs(off - 1))
    return total + MEDIAN_STEP * np.asarray(np.median(errors, axis=0)) if errors else total


def errors_of(own: LogTerms, constants: Mapping[str, float]) -> LogErrors:
    """How `constants` explain a log."""
    needs, steps = own.needs(constants), own.steps_s(constants)
    choice = min(np.flatnonzero(own.is_choice), key=lambda number: steps[number])
    counted = sum(bool((needs[group] <= 1).any()) for group in own.groups)
    best = float(np.where(needs <= 1, steps, np.inf).min())
    reading, step_s = _reading(own), own.log.step_s
    return LogErrors(
        miscounted=counted - own.log.num_possible,
        slower=float(steps[choice]) / best - 1,
        step=None if step_s is None else float(steps[choice]) / step_s - 1,
        memory=None if reading is None else float(needs[choice]) / reading - 1,
    )


def summary(errors: Sequence[LogErrors]) -> str:
    """The errors of several logs in one line."""
    off = [abs(own.miscounted) for own in errors]
    return (
        f"{len(errors)} logs; possible: the published number in {sum(o == 0 for o in off)}, within "
        f"one in {sum(o <= 1 for o in off)}; choice: at most 1% slower in "
        f"{sum(own.slower <= 0.01 for own in errors)}; "
        f"step: {_median([own.step for own in errors])}; "
        f"memory: {_median([own.memory for own in errors])}"
    )


def _median(errors: Sequence[float | None]) -> str:
    known = [abs(error) for error in errors if error is not None]
    return f"{np.median(known):.1%} in the median of {len(known)}" if known else "none published"


def platform_toml(constants: Mapping[str, float], logs: Sequence[ApLog]) -> str:
    """The text of `sim/software/moai.toml`."""
    fitted = f"fitted to {len(logs)} published logs (`parplan validate --fit-ap`)"
    lines = [HEAD.rstrip(), "", "[moai]", f'about = "{ABOUT}, releases from 24.5 on"']
    lines += [_line(name, value, source) for name, (value, source) in FIXED.items()]
    lines += [_line(name, value, fitted) for name, value in constants.items()]
    lines += ["", '["moai-24.3"]', f'about = "{ABOUT}, releases up to 24.3"', 'like = "moai"']
    lines += [_line(name, value, source) for name, (value, source) in EARLIER.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, value: bool | str | float, source: str) -> str:
    text = str(value).lower() if isinstance(value, bool) else json.dumps(value)
    return f'{name} = {{ value = {text}, source = "{source}" }}'
