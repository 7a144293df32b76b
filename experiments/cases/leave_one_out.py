"""Leave-one-source-out: every source predicted by constants that have not seen a run of it."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from parplan.experiments.cases.accuracy import Errors, errors_of
from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.fit import SOURCES, fit_frameworks
from parplan.experiments.cases.held_out import CALIBRATION
from parplan.experiments.cases.read import Case, read_cases
from parplan.experiments.cases.residuals import ratios_of
from parplan.experiments.cases.stack import stack_of
from parplan.planners.explain.uncertainty import interval
from parplan.sim.analysis.residuals import Residuals
from parplan.sim.software.framework import Framework

FITTED = frozenset(group for groups in SOURCES.values() for group in groups)
"""Sources that constants are fitted to: no interval is from them."""

FEWEST_BY_RUNS = 2
"""The fewest sources of an interval in which every run counts alike."""


def frameworks_without(
    group: str, report: Callable[[str], None] = lambda line: None
) -> Mapping[str, Framework]:
    """By name, the frameworks that are fitted to runs of `group`, without these runs.

    They are fitted to all other calibration runs whose stack has them; where there is none, the
    constants are where the search for them starts.
    """
    others = [case for case in read_cases(CALIBRATION) if case.group != group]
    cases = {
        name: [case for case in others if _is_fitted_to(case, name, group)] for name in SOURCES
    }
    found = fit_frameworks(cases, report)
    return {name: found[name] for name, groups in SOURCES.items() if group in groups}


def _is_fitted_to(case: Case, name: str, left_out: str) -> bool:
    """Whether framework `name` is fitted to `case` where a source of its is left out."""
    if left_out in SOURCES[name]:
        return stack_of(case).framework == name
    return case.group in SOURCES[name]


def constants_without(cases: Iterable[Case], report: Callable[[str], None]) -> dict[str, Framework]:
    """For each source of `cases` that a framework is fitted to, that framework without it."""
    found = {}
    for group in sorted({case.group for case in cases} & FITTED):
        for framework in frameworks_without(group, report).values():
            found[group] = framework
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAccuracy:
    """One source, predicted without it."""

    group: str
    refitted: bool
    """Whether constants were fitted anew for it."""
    errors: Errors
    covered: float | None
    """Share of its runs within the 80 % interval, as `parplan plan` prints it, that all other
    sources give; None: too few."""
    covered_by_runs: float | None
    """The same where every run counts alike, whichever source it is of."""


def by_source(outcomes: Sequence[Outcome]) -> list[SourceAccuracy]:
    """Each source with timed runs: its errors, and how many lie within intervals of the others."""
    timed = [o for o in outcomes if o.error is not None]
    found = []
    for group in sorted({o.case.group for o in timed}):
        own = [o for o in timed if o.case.group == group]
        others = [o for o in timed if o.case.group not in {group, *FITTED}]
        errors = errors_of(o.error for o in own)
        assert errors is not None
        found.append(
            SourceAccuracy(
                group=group,
                refitted=group in FITTED,
                errors=errors,
                covered=_covered(own, others, sources_alike=True),
                covered_by_runs=_covered(own, others, sources_alike=False),
            )
        )
    return found


def _covered(
    own: Sequence[Outcome], others: Sequence[Outcome], *, sources_alike: bool
) -> float | None:
    residuals = Residuals(ratios=ratios_of("reported", others, sources_alike=sources_alike))
    fewest, inside = None if sources_alike else FEWEST_BY_RUNS, list[bool]()
    for o in own:
        assert o.request is not None
        assert o.step_s is not None
        assert o.case.step_s is not None
        where = (o.request.cluster, o.request.plan, o.step_s)
        found = interval(residuals, *where, fewest_sources=fewest)
        if found is not None:
            inside.append(found.low_s <= o.case.step_s <= found.high_s)
    return statistics.fmean(inside) if inside else None


def mean_coverage(shares: Iterable[float | None]) -> float | None:
    """Mean over sources, each counting alike; None where there is no interval."""
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else None
