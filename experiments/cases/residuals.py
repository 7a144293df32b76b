"""Past accuracy as a table: quantiles of measured over predicted times, by kind of setup."""

import dataclasses
import math
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
    """The tables of one pool: by family and setup, by one of the two, and of all."""
    timed = [o for o in outcomes if o.error is not None]
    families = [*sorted({_family(o) for o in timed} - {"other"}), ANY]
    ratios = [
        found
        for family in families
        for setup in setups()
        if (found := _ratios(pool, family, setup, timed)) is not None
    ]
    pairs = [row for family in families if (row := _pairs(pool, family, timed)) is not None]
    return Residuals(ratios=tuple(ratios), pairs=tuple(pairs))


def residuals_toml(tables: Iterable[Residuals]) -> str:
    """The text of `sim/analysis/residuals.toml`."""
    lines = [
        "# Measured over predicted step times of published runs.",
        "# Read by parplan.sim.analysis.residuals.",
        "# Written by parplan validate --write-residuals. Past accuracy: nothing is fitted to it.",
        "# reported: the file of held-out runs, without the sources of which others are fitted to.",
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


def _ratios(pool: Pool, family: str, setup: Setup, timed: Sequence[Outcome]) -> Ratios | None:
    own = [
        o
        for o in timed
        if o.request is not None
        and family in (ANY, _family(o))
        and setup in (ANY, setup_of(o.request.plan))
    ]
    if len(own) < FEWEST:
        return None
    low, median, high = np.quantile([math.exp(_log_ratio(o)) for o in own], (0.1, 0.5, 0.9))
    return Ratios(
        pool=pool,
        family=family,
        setup=setup,
        runs=len(own),
        sources=len({o.case.group for o in own}),
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
