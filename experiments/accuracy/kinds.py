"""Bias of predictions by the kind of plan: whether a search would be drawn to one of them."""

import statistics
from collections.abc import Sequence
from itertools import groupby

from parplan.experiments.accuracy.table import FITTED
from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.residuals import weighted_quantile
from parplan.experiments.output.tables import columns
from parplan.sim.analysis.residuals import family_of, setup_of, setups

HEADER = ("architecture", "kind of plan", "runs", "sources", "bias", "sources alike")

FEWEST = 8
"""A kind of plan with fewer runs has no line."""


def kinds(outcomes: Sequence[Outcome]) -> str:
    """A line for each kind of plan on accelerators of each architecture, and how far they differ.

    Bias is the median of the signed errors: where every run counts alike, and where every source
    does. Sources that constants are fitted to are left out.
    """
    known = [o for o in outcomes if o.error is not None and o.case.group not in FITTED]
    rows: list[tuple[str, ...]] = []
    for family, own in groupby(sorted(known, key=_family), key=_family):
        rows += _of_family(family, list(own))
    return columns([HEADER, *rows])


def _of_family(family: str, outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows, by_runs, alike = list[tuple[str, ...]](), list[float](), list[float]()
    for kind in setups():
        own = [o for o in outcomes if _kind(o) == kind]
        if len(own) < FEWEST:
            continue
        groups = [o.case.group for o in own]
        errors = [error for o in own if (error := o.error) is not None]
        by_runs.append(statistics.median(errors))
        alike.append(weighted_quantile(errors, [1 / groups.count(g) for g in groups], 0.5))
        numbers = str(len(own)), str(len(set(groups))), f"{by_runs[-1]:+.1%}", f"{alike[-1]:+.1%}"
        rows.append((family, kind, *numbers))
    if len(rows) > 1:
        spreads = [f"{100 * (max(each) - min(each)):.1f} points" for each in (by_runs, alike)]
        rows.append((family, "furthest apart", "", "", *spreads))
    return rows


def _family(outcome: Outcome) -> str:
    assert outcome.request is not None
    return family_of(outcome.request.cluster.accelerator.name)


def _kind(outcome: Outcome) -> str:
    assert outcome.request is not None
    return setup_of(outcome.request.plan)
