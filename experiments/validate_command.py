"""`parplan validate`: predictions beside what others measured."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from parplan.experiments.cases.accuracy import Errors, Ranks, errors_of, ranks_of, verdicts_of
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.fit import SOURCES, fit_framework, frameworks_toml
from parplan.experiments.cases.read import Case, read_cases
from parplan.experiments.output import OutputFolder
from parplan.experiments.progress import Progress
from parplan.experiments.tables import columns
from parplan.hardware.errors import ParplanError
from parplan.hardware.files import write_whole

PAPERS = Path(__file__).parent / "papers"
CALIBRATION = PAPERS / "published_calibration.jsonl"
VALIDATION = PAPERS / "published_validation.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan validate`."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        default=[VALIDATION],
        help="cases, one JSON object per line (default: the shipped validation file)",
    )
    parser.add_argument("--group", action="append", help="only the cases of this source")
    parser.add_argument(
        "--fit-frameworks",
        type=Path,
        metavar="FILE",
        help="fit the frameworks' constants to the calibration file, and write them there (TOML)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/validate"), help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Predict, print a line per source, write every case."""
    if args.fit_frameworks is not None:
        return _fit(args.fit_frameworks)
    cases = [case for path in args.files for case in read_cases(path)]
    if args.group:
        known = {case.group for case in cases}
        for group in args.group:
            if group not in known:
                raise ParplanError(f"--group {group}: known: {', '.join(sorted(known))}")
        cases = [case for case in cases if case.group in args.group]
    output = OutputFolder(args.output, args.argv)
    outcomes = _evaluated(cases)
    print(summary(outcomes))
    output.write_csv("cases.csv", [_row(outcome) for outcome in outcomes])
    output.write_manifest({"files": [str(path) for path in args.files], "groups": args.group})
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _evaluated(cases: Sequence[Case]) -> list[Outcome]:
    progress, outcomes = Progress(), list[Outcome]()
    for done, case in enumerate(cases, start=1):
        outcomes.append(evaluate(case))
        progress("validate", done, len(cases))
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """A row for each source, then the core cases, memory, and coverage."""
    header = ("source", "cases", "timed", "median", "mean", "p90", "bias", "tau", "regret")
    groups = sorted({outcome.case.group for outcome in outcomes})
    rows: list[tuple[str, ...]] = [(*header, "memory")]
    rows += [_summary_row(g, [o for o in outcomes if o.case.group == g]) for g in groups]
    core = [o for o in outcomes if o.case.core]
    if core:
        rows.append(_summary_row("all core cases", core))
    rows.append(_summary_row("all cases", outcomes))
    lines = [columns(rows)]
    verdicts = verdicts_of(outcomes)
    if verdicts is not None:
        lines.append(
            f"fits in memory: {verdicts.ran_right} of {verdicts.ran} runs that ran, does not: "
            f"{verdicts.out_of_memory_right} of {verdicts.out_of_memory} that ran out of memory "
            f"(balanced accuracy {verdicts.balanced_accuracy:.1%})"
        )
    complete = [o for o in outcomes if o.case.quality.startswith("A")]
    if complete:
        covered = sum(not o.reason for o in complete)
        lines.append(f"predicted: {covered} of {len(complete)} cases of quality A")
    return "\n".join(lines)


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


def _row(outcome: Outcome) -> dict[str, object]:
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


def _fit(path: Path) -> int:
    cases = read_cases(CALIBRATION)
    fitted = [
        fit_framework(
            name,
            [case for case in cases if case.group in groups],
            lambda line: print(f"parplan: {line}", file=sys.stderr),
        )
        for name, groups in SOURCES.items()
    ]
    text = frameworks_toml(fitted)
    print(text, end="")
    write_whole(path, text.encode())
    return 0
