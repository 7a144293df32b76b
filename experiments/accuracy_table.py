"""Predictions beside measurements as tables: a line per source, a row per run."""

from collections.abc import Sequence

from parplan.experiments.cases.accuracy import Errors, Ranks, errors_of, ranks_of, verdicts_of
from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.fit import SOURCES
from parplan.experiments.tables import columns

HEADER = ("source", "runs", "timed", "median", "mean", "p90", "bias", "tau", "regret", "memory")

FITTED = frozenset(group for groups in SOURCES.values() for group in groups)
"""Sources of which other runs were fitted to; they are marked with a star."""


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line per source, then of several together, of memory, and how many could be predicted."""
    groups = sorted({outcome.case.group for outcome in outcomes})
    rows: list[tuple[str, ...]] = [HEADER]
    for group in groups:
        name = f"{group} *" if group in FITTED else group
        rows.append(_summary_row(name, [o for o in outcomes if o.case.group == group]))
    if len(groups) > 1:
        others = [o for o in outcomes if o.case.group not in FITTED]
        core = [o for o in outcomes if o.case.core]
        for name, those in (
            ("all", outcomes),
            ("all without *", others if len(others) < len(outcomes) else []),
            ("core", core if len(core) < len(outcomes) else []),
        ):
            if those:
                rows.append(_summary_row(name, those))
    lines = [columns(rows)]
    if FITTED & set(groups):
        lines.append("*: constants of its framework are fitted to other runs of the same source")
    return "\n".join([*lines, *_verdict_lines(outcomes), *_coverage_lines(outcomes)])


def _verdict_lines(outcomes: Sequence[Outcome]) -> list[str]:
    verdicts = verdicts_of(outcomes)
    if verdicts is None:
        return []
    return [
        f"fits in memory: {verdicts.ran_right} of {verdicts.ran} runs that ran; does not: "
        f"{verdicts.out_of_memory_right} of {verdicts.out_of_memory} that ran out of memory "
        f"(balanced accuracy {verdicts.balanced_accuracy:.1%})"
    ]


def _coverage_lines(outcomes: Sequence[Outcome]) -> list[str]:
    complete = [o for o in outcomes if o.case.quality.startswith("A")]
    covered = sum(not o.reason for o in outcomes)
    line = f"predicted: {covered} of {len(outcomes)} runs"
    if complete:
        covered = sum(not o.reason for o in complete)
        line += f", {covered} of {len(complete)} that are described completely"
    return [line]


def _summary_row(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    errors = errors_of(o.error for o in outcomes)
    memory = errors_of(o.memory_error for o in outcomes)
    return (
        name,
        str(len(outcomes)),
        *_error_cells(errors),
        *_rank_cells(ranks_of(outcomes)),
        "" if memory is None else f"{memory.median:.1%} ({memory.count})",
    )


def _error_cells(errors: Errors | None) -> tuple[str, ...]:
    if errors is None:
        return ("0", "", "", "", "")
    return (
        str(errors.count),
        f"{errors.median:.1%}",
        f"{errors.mean:.1%}",
        f"{errors.p90:.1%}",
        f"{errors.bias:+.1%}",
    )


def _rank_cells(ranks: Ranks | None) -> tuple[str, str]:
    return ("", "") if ranks is None else (f"{ranks.tau:.2f}", f"{ranks.regret:.1%}")


def row(outcome: Outcome) -> dict[str, object]:
    """One run: what was measured, what is predicted, and what had to be assumed."""
    case = outcome.case
    request = outcome.request
    return {
        "id": case.id,
        "group": case.group,
        "source": case.source_where,
        "core": case.core,
        "quality": case.quality,
        "measured_step_s": case.step_s,
        "predicted_step_s": outcome.step_s,
        "error": outcome.error,
        "out_of_memory": case.measured.oom,
        "fits": outcome.fits,
        "reported_peak_bytes": case.peak_memory_bytes,
        "predicted_peak_bytes": outcome.peak_bytes,
        "memory_error": outcome.memory_error,
        "bubble": outcome.bubble,
        "assumed": "; ".join(request.assumed) if request is not None else "",
        "not_predicted_because": outcome.reason,
    }
