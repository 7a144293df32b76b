"""Leave-one-source-out as tables: a line per source, and rows."""

from collections.abc import Sequence

from parplan.experiments.cases.accuracy import Errors, errors_of, repeats_of
from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.leave_one_out import SourceAccuracy, by_source, mean_coverage
from parplan.experiments.output.tables import columns

HEADER = ("left out", "timed", "median", "mean", "p90", "bias", "in interval", "by runs")


def leave_one_out_text(outcomes: Sequence[Outcome]) -> str:
    """A line per source, then core and all runs, and the coverage of intervals."""
    found = by_source(outcomes)
    rows = [
        _row(f"{one.group}{' *' * one.refitted}", one.errors, one.covered, one.covered_by_runs)
        for one in found
    ]
    for name, those in (
        ("core runs", [o for o in outcomes if o.case.core]),
        ("all runs", outcomes),
    ):
        errors = errors_of(o.error for o in those)
        rows += [_row(name, errors, None, None)] if errors is not None else []
    lines = [columns([HEADER, *rows])]
    if any(one.refitted for one in found):
        lines.append("*: constants of its framework are fitted anew without it")
    repeats = repeats_of(outcomes)
    if repeats is not None:
        lines.append(
            f"repeats: {repeats.runs} runs of {repeats.configurations} configurations differ by "
            f"{repeats.spread:.1%} to either side in the median: no model comes closer"
        )
    own, by_runs = (
        mean_coverage(getattr(one, name) for one in found)
        for name in ("covered", "covered_by_runs")
    )
    if own is not None and by_runs is not None:
        lines.append(
            f"80% intervals from all other sources: {own:.0%} of the runs of a source lie within, "
            f"{by_runs:.0%} where runs count alike, mean over {len(found)} sources"
        )
    return "\n".join(lines)


def _row(name: str, errors: Errors, *covered: float | None) -> tuple[str, ...]:
    return (
        name,
        str(errors.count),
        f"{errors.median:.1%}",
        f"{errors.mean:.1%}",
        f"{errors.p90:.1%}",
        f"{errors.bias:+.1%}",
        *("" if share is None else f"{share:.0%}" for share in covered),
    )


def leave_one_out_rows(found: Sequence[SourceAccuracy]) -> list[dict[str, object]]:
    """The same of each source as numbers."""
    return [
        {
            "source": one.group,
            "refitted": one.refitted,
            "timed": one.errors.count,
            "median_error": one.errors.median,
            "mean_error": one.errors.mean,
            "p90_error": one.errors.p90,
            "bias": one.errors.bias,
            "within_80_percent_interval": one.covered,
            "within_where_runs_count_alike": one.covered_by_runs,
        }
        for one in found
    ]
