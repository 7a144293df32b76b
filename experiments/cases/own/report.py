"""Fits to own runs as text and rows: constants, errors, what to measure next, the study."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from parplan.experiments.cases.attribute import Attribution
from parplan.experiments.cases.own.checked import CheckedFit
from parplan.experiments.cases.own.constants import OWN_CONSTANTS, standard_errors, value_of
from parplan.experiments.cases.own.fit import held_out_parts
from parplan.experiments.cases.own.next import Proposal
from parplan.experiments.cases.own.study import Draw
from parplan.experiments.output.tables import columns


def constant_rows(checked: CheckedFit) -> list[dict[str, object]]:
    """A row per constant: shipped, fitted, its standard error, whether the runs identify it."""
    fit = checked.fit
    errors = standard_errors(fit.setting, fit.covariance)
    return [
        {
            "constant": constant.name,
            "shipped": value_of(fit.start, constant),
            "fitted": value_of(fit.setting, constant),
            "change": value_of(fit.setting, constant) - value_of(fit.start, constant),
            "standard_error": float(errors[i]),
            "prior_width": constant.width,
            "moves": i in fit.moved,
        }
        for i, constant in enumerate(OWN_CONSTANTS)
    ]


def run_rows(checked: CheckedFit) -> list[dict[str, object]]:
    """A row per run: its error with the shipped constants, held out, and fitted to."""
    parts = held_out_parts(checked.runs)
    part_of = {i: number for number, part in enumerate(parts) for i in part}
    return [
        {
            "id": run.case.id,
            "measured_step_s": run.case.step_s,
            "held_out_with_part": part_of[i],
            "error_shipped": checked.shipped[i],
            "error_held_out": checked.held_out[i],
            "error_fitted": checked.fitted[i],
        }
        for i, run in enumerate(checked.runs)
    ]


def fit_text(checked: CheckedFit) -> str:
    """The constants, and the errors before and after."""
    fit, parts = checked.fit, len(held_out_parts(checked.runs))
    table: list[tuple[str, ...]] = [("constant", "shipped", "fitted", "change", "std. error", "")]
    for row in constant_rows(checked):
        moves = "" if row["moves"] else "not identified by these runs: stays"
        values = (f"{row[key]:.3g}" for key in ("shipped", "fitted"))
        change = f"{row['change']:+.2g}" if row["moves"] else ""
        table.append((str(row["constant"]), *values, change, f"{row['standard_error']:.2g}", moves))
    lines = [
        f"start: {fit.start.framework.name}; {len(checked.runs)} runs, noise {fit.noise:.1%}",
        columns(table),
        f"held out: {parts} parts, each predicted by a fit to the others",
        error_table(
            {
                "shipped constants": checked.shipped,
                "fitted, held out": checked.held_out,
                "fitted, seen": checked.fitted,
            }
        ),
    ]
    if not checked.is_better:
        lines.append(
            "runs that are held out are not predicted better: the shipped constants are kept"
        )
    return "\n".join(lines)


def error_table(rows: Mapping[str, Sequence[float]]) -> str:
    """Absolute errors of several predictions of the same runs."""
    table: list[tuple[str, ...]] = [("errors", "runs", "median", "mean", "largest")]
    for name, errors in rows.items():
        sizes = sorted(map(abs, errors))
        shown = (statistics.median(sizes), statistics.fmean(sizes), sizes[-1])
        table.append((name, str(len(sizes)), *(f"{value:.1%}" for value in shown)))
    return columns(table)


def proposal_text(found: Sequence[Proposal], most: int = 5) -> str:
    """The configurations to measure next, and why the first one."""
    if not found:
        return "next: no candidate that could be laid out, fits in memory and was not measured"
    first = found[0]
    lines = [
        f"next: measure {first.case.id}: its step of {first.step_s:.4g} s is the least certain of "
        f"{len(found)} candidates (+-{first.spread:.1%}), mostly for what is not known of "
        f"{first.cause} ({first.cause_share:.0%})"
    ]
    rows: list[tuple[str, ...]] = [("candidate", "step s", "+-", "for")]
    rows += [(p.case.id, f"{p.step_s:.4g}", f"{p.spread:.1%}", p.cause) for p in found[:most]]
    return "\n".join([*lines, columns(rows)])


def proposal_rows(found: Iterable[Proposal]) -> list[dict[str, object]]:
    """A row per candidate."""
    return [
        {
            "id": one.case.id,
            "predicted_step_s": one.step_s,
            "relative_standard_deviation": one.spread,
            "mostly_for": one.cause,
            "share_of_variance": one.cause_share,
        }
        for one in found
    ]


STUDY_HEADER = ("source", "runs", "before", "after", "draws", "kept", "better", "always", "moved")


def study_text(draws: Sequence[Draw]) -> str:
    """A line per source: median errors of the runs that were not fitted to, over all draws."""
    rows: list[tuple[str, ...]] = [STUDY_HEADER]
    groups = sorted({draw.group for draw in draws})
    rows += [_study_row(name, [draw for draw in draws if draw.group == name]) for name in groups]
    if len(groups) > 1:
        rows.append(_of_sources(rows[1:], draws))
    return columns(rows)


def _study_row(group: str, draws: Sequence[Draw]) -> tuple[str, ...]:
    names = [name for draw in draws for name in draw.moved]
    often = [name for name in dict.fromkeys(names) if 2 * names.count(name) > len(draws)]
    return (
        group,
        str(len(draws[0].fitted_ids) + len(draws[0].before)),
        *(f"{_median(draws, kind):.1%}" for kind in ("before", "after")),
        str(len(draws)),
        str(sum(draw.is_kept for draw in draws)),
        str(sum(_size(draw.after) < _size(draw.before) for draw in draws)),
        f"{_median(draws, 'always'):.1%}",
        ", ".join(often),
    )


def _of_sources(rows: Sequence[tuple[str, ...]], draws: Sequence[Draw]) -> tuple[str, ...]:
    """The median over sources, each of the same weight."""
    groups = sorted({draw.group for draw in draws})

    def middle(kind: str) -> str:
        own = ([draw for draw in draws if draw.group == group] for group in groups)
        return f"{statistics.median(_median(part, kind) for part in own):.1%}"

    sums = [str(sum(int(row[i]) for row in rows)) for i in (1, 4, 5, 6)]
    cells = (sums[0], middle("before"), middle("after"), *sums[1:], middle("always"))
    return ("median of sources", *cells, "")


def _median(draws: Iterable[Draw], kind: str) -> float:
    return float(statistics.median(abs(e) for draw in draws for e in getattr(draw, kind)))


def _size(errors: Iterable[float]) -> float:
    return statistics.median(map(abs, errors))


def study_rows(draws: Iterable[Draw]) -> list[dict[str, object]]:
    """A row per draw."""
    return [
        {
            "group": draw.group,
            "draw": draw.number,
            "fitted_to": " ".join(draw.fitted_ids),
            "moved": " ".join(draw.moved),
            "kept": draw.is_kept,
            "others": len(draw.before),
            "median_before": _size(draw.before),
            "median_after": _size(draw.after),
            "median_always": _size(draw.always),
        }
        for draw in draws
    ]


def attribution_text(group: str, found: Sequence[Attribution]) -> str:
    """Describe the feature that explains the errors of a source, and the errors by its values."""
    first = found[0]
    most = f"{first.name} explains most of the errors of {group}: {first.alone:.0%} of the variance"
    if first.alone <= 0:
        most = f"no feature of the plans explains the errors of {group}"
    rows: list[tuple[str, ...]] = [("feature", "alone", "beyond others")]
    rows += [(one.name, f"{one.alone:.0%}", f"{one.beyond_others:.0%}") for one in found]
    levels: list[tuple[str, ...]] = [("feature", "value", "runs", "median", "bias")]
    for one in found:
        for i, level in enumerate(one.levels):
            shown = (str(level.count), f"{level.median_size:.1%}", f"{level.median:+.1%}")
            levels.append((one.name if i == 0 else "", level.value, *shown))
    return "\n".join([most, columns(rows), "", columns(levels)])


def attribution_rows(found: Iterable[Attribution]) -> list[dict[str, object]]:
    """A row per value of each feature."""
    return [
        {
            "feature": one.name,
            "alone": one.alone,
            "beyond_others": one.beyond_others,
            "value": level.value,
            "runs": level.count,
            "median_error": level.median_size,
            "bias": level.median,
        }
        for one in found
        for level in one.levels
    ]
