"""Past accuracy as a table: quantiles of measured over predicted times, by kind of setup."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from parplan.experiments.cases.accuracy import sweeps_of
from parplan.experiments.cases.evaluate import Outcome
from parplan.sim.analysis.residuals import (
    ANY,
    Pairs,
    Pool,
    Ratios,
    Residuals,
    Setup,
    family_of,
    setup_of,
    setups,
)

FEWEST = 8
"""Of fewer runs no quantiles are written."""

NEAR = 1.25
"""Pairs of plans count whose predicted steps differ by no more than this factor: those that a
choice is made among."""


def residuals_of(pool: Pool, outcomes: Sequence[Outcome]) -> Residuals:
    """The tables of one pool: by family and setup, by one of the two, and of all.

    Of the reported runs, every source counts alike, as a run of one's own is of another one.
    """
    timed = [o for o in outcomes if o.error is not None]
    families = _families(timed)
    ratios = ratios_of(pool, timed, sources_alike=pool == "reported")
    pairs = [row for family in families if (row := _pairs(pool, family, timed)) is not None]
    return Residuals(ratios=ratios, pairs=tuple(pairs))


def ratios_of(pool: Pool, timed: Sequence[Outcome], *, sources_alike: bool) -> tuple[Ratios, ...]:
    """Quantiles of measured over predicted times, by family and setup, by one of them, and of all.

    `sources_alike`: every source counts alike, however many runs it has, and the quantiles are
    those that hold for a run of a source that is not among them: of n sources, 0.9 (1 + 1 / n) and
    its complement (split conformal prediction: Lei et al. 2018, J. Am. Stat. Assoc. 113(523),
    section 2.2). Else every run counts alike, with the quantiles of 10 and 90 %.
    """
    return tuple(
        found
        for family in _families(timed)
        for setup in setups()
        if (found := _ratios(pool, family, setup, timed, sources_alike)) is not None
    )


def _families(timed: Sequence[Outcome]) -> list[str]:
    return [*sorted({_family(o) for o in timed} - {"other"}), ANY]


def residuals_toml(tables: Iterable[Residuals]) -> str:
    """The text of `sim/analysis/residuals.toml`."""
    lines = [
        "# Measured over predicted step times of published runs.",
        "# Read by parplan.sim.analysis.residuals.",
        "# Written by parplan validate --write-residuals. Past accuracy: nothing is fitted to it.",
        "# reported: the file of held-out runs, without the sources of which others are fitted to;",
        "# every source counts alike, and a run of a further one is allowed for.",
        "# calibration: the file of runs that constants may be fitted to.",
    ]
    tables = list(tables)
    for name in ("ratios", "pairs"):
        for row in (row for table in tables for row in getattr(table, name)):
            lines += ["", f"[[{name}]]"]
            lines += [f"{key} = {_text(value)}" for key, value in dataclasses.asdict(row).items()]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _family(outcome: Outcome) -> str:
    assert outcome.request is not None
    return family_of(outcome.request.cluster.accelerator.name)


def _ratios(
    pool: Pool, family: str, setup: Setup, timed: Sequence[Outcome], sources_alike: bool
) -> Ratios | None:
    own = [
        o
        for o in timed
        if o.request is not None
        and family in (ANY, _family(o))
        and setup in (ANY, setup_of(o.request.plan))
    ]
    if len(own) < FEWEST:
        return None
    runs_of = Counter(o.case.group for o in own)
    ratios = [math.exp(_log_ratio(o)) for o in own]
    if sources_alike:
        weights = [1 / runs_of[o.case.group] for o in own]
        upper = min(1.0, 0.9 * (1 + 1 / len(runs_of)))
        low, median, high = (weighted_quantile(ratios, weights, q) for q in (1 - upper, 0.5, upper))
    else:
        low, median, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    return Ratios(
        pool=pool,
        family=family,
        setup=setup,
        runs=len(own),
        sources=len(runs_of),
        low=float(low),
        median=float(median),
        high=float(high),
    )


def _pairs(pool: Pool, family: str, timed: Sequence[Outcome]) -> Pairs | None:
    """Each sweep counts as much as it has runs, so that large ones with many pairs don't rule."""
    errors, weights, sweeps = list[float](), list[float](), 0
    for sweep in sweeps_of(o for o in timed if family in (ANY, _family(o))):
        own = [
            abs(_log_ratio(a) - _log_ratio(b))
            for a, b in combinations(sweep, 2)
            if _only_plans_differ(a, b)
            and abs(math.log((a.step_s or 1.0) / (b.step_s or 1.0))) <= math.log(NEAR)
        ]
        if not own:
            continue
        sweeps += 1
        errors += own
        weights += [len(sweep) / len(own)] * len(own)
    if len(errors) < FEWEST:
        return None
    apart = math.exp(weighted_quantile(errors, weights, 0.8))
    return Pairs(pool=pool, family=family, sweeps=sweeps, pairs=len(errors), apart=apart)


def _only_plans_differ(a: Outcome, b: Outcome) -> bool:
    assert a.request is not None
    assert b.request is not None
    same = (a.request.workload, a.request.cluster) == (b.request.workload, b.request.cluster)
    return same and a.request.plan != b.request.plan


def weighted_quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The smallest value that, with all smaller ones, has `share` of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(np.asarray(weights)[order])
    place = int(np.searchsorted(reached, share * reached[-1]))
    return float(np.asarray(values)[order][min(place, len(values) - 1)])


def _log_ratio(outcome: Outcome) -> float:
    """The logarithm of measured over predicted."""
    assert outcome.error is not None
    return -math.log1p(outcome.error)
