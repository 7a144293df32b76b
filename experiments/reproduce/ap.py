"""The published logs of Advanced Parallelization: candidates, verdicts, choice, step and memory."""

from collections.abc import Sequence

import numpy as np

from parplan.experiments.cases.ap_logs import (
    ApLog,
    LogVerdicts,
    all_logs,
    on_platform,
    verdicts_of,
)
from parplan.experiments.planning.ap.both_stacks import TIE
from parplan.experiments.reproduce.draw import pairs, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.planners.ap.log import selected_line
from parplan.planners.ap.possible import num_counted


def _row(log: ApLog) -> Row:
    platform = verdicts_of(log, on_platform(log))
    default = verdicts_of(log, log.workload)
    choice, best = platform.choice, platform.best
    gap = relative(choice.step_s, None if best is None else best.step_s)
    memory = max(choice.memory_bytes) / 2**30
    return {
        "log": log.id,
        "fitted": log.fitted,
        "release": log.rule,
        "candidates": len(platform.trials),
        "published candidates": log.num_candidates,
        "possible": num_counted(platform.trials, log.rule),
        "published possible": log.num_possible,
        "rank of AP's choice": _rank(platform),
        "slower than our best by": gap,
        "choice": _word(gap),
        "step [s]": choice.step_s,
        "published step [s]": log.step_s,
        "step error": relative(choice.step_s, log.step_s),
        "memory [GiB]": memory,
        "published memory [GiB]": log.memory_gib,
        "memory error": relative(memory, log.memory_gib),
        "possible by default stack": sum(trial.fits for trial in default.trials),
        "choice of default stack": _line(default, log),
    }


def _rank(verdicts: LogVerdicts) -> int:
    """The place of AP's choice among what fits, from 1 on."""
    step_s = verdicts.choice.step_s or 0.0
    return 1 + sum((trial.step_s or step_s) < step_s for trial in verdicts.trials if trial.fits)


def _word(gap: float | None) -> str:
    if gap is None:
        return "-"
    return "the same" if gap <= 0 else "a tie" if gap <= TIE else "another"


def _line(verdicts: LogVerdicts, log: ApLog) -> str:
    return "" if verdicts.best is None else selected_line(verdicts.best.plan, log.rule)


def _run(quick: bool) -> Result:
    rows = [_row(log) for log in all_logs()[: 3 if quick else None]]
    marks = [f"{i}" for i, _ in enumerate(rows, start=1)]
    figure, axes = panels(3, 9.5, 4.6)
    for one, ours, theirs, title in zip(
        axes,
        ("possible", "step [s]", "memory [GiB]"),
        ("published possible", "published step [s]", "published memory [GiB]"),
        ("candidates that are possible", "step of AP's choice [s]", "memory of it [GiB]"),
        strict=True,
    ):
        shown = [i for i, row in enumerate(rows) if row[theirs] is not None]
        pairs(one, [marks[i] for i in shown], [number(rows[i], ours) for i in shown],
              [number(rows[i], theirs) for i in shown], title)  # fmt: skip
        one.set_xlabel("log, as numbered in the table")
        plain(one)
    findings: list[str] = []
    for name, fitted in (("fitted", True), ("held-out", False)):
        some = [row for row in rows if row["fitted"] is fitted]
        findings += _findings(name, some) if some else [f"{name} logs: none"]
    return Result(rows=rows, figure=figure, findings=tuple(findings))


def _findings(name: str, rows: Sequence[Row]) -> list[str]:
    count = len(rows)
    off = [abs(row["possible"] - row["published possible"]) for row in rows]
    candidates = sum(row["candidates"] == row["published candidates"] for row in rows)
    close = sum(row["choice"] in ("the same", "a tie") for row in rows)
    same = sum(row["choice"] == "the same" for row in rows)
    default = sum(row["possible by default stack"] == row["published possible"] for row in rows)
    return [
        f"{name} logs: {count}; candidates: the published number in {candidates}",
        f"{name} logs: possible: the published number in {sum(d == 0 for d in off)}, within one "
        f"in {sum(d <= 1 for d in off)} (by parplan's default stack: in {default})",
        f"{name} logs: AP's choice is our best in {same}, and no more than {TIE:.0%} slower in "
        f"{close}",
        *(_median(name, what, rows) for what in ("step", "memory")),
    ]


def _median(name: str, what: str, rows: Sequence[Row]) -> str:
    errors = [abs(row[f"{what} error"]) for row in rows if row[f"{what} error"] is not None]
    if not errors:
        return f"{name} logs: {what}: none published"
    return f"{name} logs: {what}: {np.median(errors):.1%} off in the median of {len(errors)}"


EXPERIMENT = Experiment(
    question="Does parplan find the candidates, verdicts and choices of AP's published logs?",
    source="Logs in the documentation of Moreh's MoAI Platform (docs.moreh.io, 2024)",
    setup="AP's own candidates on clusters of MI250 dies with AP's memory limit of 80 %, by the "
    "software preset moai, whose constants are chosen by these logs; Qwen1.5 7B as Llama-2 7B with "
    "151,936 words.",
    published="experiments/papers/ap_cases.json",
    run=_run,
    seconds=6,
)
