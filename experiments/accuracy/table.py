"""Predictions beside measurements as tables: a line per source, a row per run."""

from collections.abc import Sequence

from parplan.experiments.cases.accuracy import Errors, Ranks, errors_of, ranks_of, verdicts_of
from parplan.experiments.cases.evaluate import SHARES, Outcome
from parplan.experiments.cases.fit import SOURCES
from parplan.experiments.output.tables import columns

HEADER = ("source", "runs", "timed", "median", "mean", "p90", "bias", "tau", "regret", "memory")

FITTED = frozenset(group for groups in SOURCES.values() for group in groups)
"""Sources of which other runs were fitted to; they are marked with a star."""


DOUBTS_SHOWN = 20


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line per source, then of several together, of memory, and of what could be predicted.

    And a line for each doubtful measurement.
    """
    parts = _parts(outcomes)
    lines = [columns([HEADER, *(_summary_row(name, those) for name, those in parts)])]
    if any(name.endswith(" *") for name, _ in parts):
        lines.append("*: constants of its framework are fitted to other runs of the same source")
    lines += [*_verdict_lines(outcomes), *_coverage_lines(outcomes), *_doubt_lines(outcomes)]
    return "\n".join(lines)


def summary_rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The same as numbers, with how many could be predicted and the verdicts on memory."""
    return [_numbers(name, those) for name, those in _parts(outcomes)]


def _parts(outcomes: Sequence[Outcome]) -> list[tuple[str, Sequence[Outcome]]]:
    """Sources, then several together, each with its runs."""
    groups = sorted({outcome.case.group for outcome in outcomes})
    parts: list[tuple[str, Sequence[Outcome]]] = []
    for group in groups:
        name = f"{group} *" if group in FITTED else group
        parts.append((name, [o for o in outcomes if o.case.group == group]))
    if len(groups) > 1:
        others = [o for o in outcomes if o.case.group not in FITTED]
        core = [o for o in outcomes if o.case.core]
        parts.append(("all", outcomes))
        parts += [("all without *", others)] if 0 < len(others) < len(outcomes) else []
        parts += [("core", core)] if 0 < len(core) < len(outcomes) else []
    return parts


def _numbers(name: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    errors, memory = (
        errors_of(o.error for o in outcomes),
        errors_of(o.memory_error for o in outcomes),
    )
    ranks, verdicts = ranks_of(outcomes), verdicts_of(outcomes)
    return {
        "source": name,
        "runs": len(outcomes),
        "predicted": sum(not o.reason for o in outcomes),
        "doubtful": sum(bool(o.doubts) for o in outcomes),
        "timed": errors and errors.count,
        "median_error": errors and errors.median,
        "mean_error": errors and errors.mean,
        "p90_error": errors and errors.p90,
        "bias": errors and errors.bias,
        "sweeps": ranks and ranks.sweeps,
        "kendall_tau": ranks and ranks.tau,
        "regret": ranks and ranks.regret,
        "peaks": memory and memory.count,
        "median_peak_error": memory and memory.median,
        "ran": verdicts and verdicts.ran,
        "ran_and_fits": verdicts and verdicts.ran_right,
        "out_of_memory": verdicts and verdicts.out_of_memory,
        "out_of_memory_and_does_not_fit": verdicts and verdicts.out_of_memory_right,
        "may_fail": verdicts and verdicts.may_fail,
    }


def _verdict_lines(outcomes: Sequence[Outcome]) -> list[str]:
    verdicts = verdicts_of(outcomes)
    if verdicts is None:
        return []
    return [
        f"fits in memory: {verdicts.ran_right} of {verdicts.ran} runs that ran; does not: "
        f"{verdicts.out_of_memory_right} of {verdicts.out_of_memory} that ran out of memory "
        f"(balanced accuracy {verdicts.balanced_accuracy:.1%})",
        f"with a margin: {verdicts.fits_right} of {verdicts.fits} that fit ran; "
        f"{verdicts.does_not_fit_right} of {verdicts.does_not_fit} that do not fit ran out of "
        f"memory; {verdicts.may_fail} may fail",
    ]


def _coverage_lines(outcomes: Sequence[Outcome]) -> list[str]:
    complete = [o for o in outcomes if o.case.quality.startswith("A")]
    covered = sum(not o.reason for o in outcomes)
    line = f"predicted: {covered} of {len(outcomes)} runs"
    if complete:
        covered = sum(not o.reason for o in complete)
        line += f", {covered} of {len(complete)} that are described completely"
    return [line]


def doubt_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each doubt about a measured value, of the first `DOUBTS_SHOWN` runs with one."""
    doubtful = [o for o in outcomes if o.doubts]
    lines = [f"{o.case.id}: {doubt}" for o in doubtful[:DOUBTS_SHOWN] for doubt in o.doubts]
    rest = len(doubtful) - DOUBTS_SHOWN
    return [*lines, *([f"and {rest} more: column doubtful of the table"] if rest > 0 else [])]


def _doubt_lines(outcomes: Sequence[Outcome]) -> list[str]:
    count = sum(bool(o.doubts) for o in outcomes)
    if not count:
        return []
    head = f"doubtful: measured values of {count} of {len(outcomes)} runs"
    return [head, *(f"  {line}" for line in doubt_lines(outcomes))]


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
        "status": outcome.status,
        "predicted_step_s": outcome.step_s,
        "measured_step_s": case.step_s,
        "predicted_peak_bytes": outcome.peak_bytes,
        "predicted_fits": outcome.fits,
        "memory_verdict": outcome.verdict,
        "relative_error": outcome.error,
        "source": case.source_where,
        "core": case.core,
        "quality": case.quality,
        "out_of_memory": case.measured.oom,
        "reported_peak_bytes": case.peak_memory_bytes,
        "memory_error": outcome.memory_error,
        **{f"{part}_share": outcome.shares.get(part) for part in SHARES},
        "doubtful": "; ".join(outcome.doubts),
        "assumed": "; ".join(request.assumed) if request is not None else "",
        "not_predicted_because": outcome.reason,
    }
