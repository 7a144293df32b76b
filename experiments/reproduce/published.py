"""Published runs for experiments, predicted; and numbers that were read in papers.

Experiments report how far predictions are off. Nothing is fitted here.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from parplan._strict import read_json
from parplan.errors import ParplanError
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.held_out import CALIBRATION, PAPERS, VALIDATION
from parplan.experiments.cases.read import Case, case_of, read_cases
from parplan.experiments.output.progress import ProgressLine

FIGURES = PAPERS / "read_in_papers.json"

VALIDATION_WORDS = f"experiments/papers/{VALIDATION.name}"
CALIBRATION_WORDS = f"experiments/papers/{CALIBRATION.name}"
FIGURES_WORDS = f"experiments/papers/{FIGURES.name}"


def cases(test: Callable[[Case], bool]) -> list[Case]:
    """The published runs, of both files, that `test` holds for."""
    return [case for case in _all() if test(case)]


@cache
def _all() -> tuple[Case, ...]:
    return (*read_cases(CALIBRATION), *read_cases(VALIDATION))


def of_groups(*groups: str) -> list[Case]:
    """The published runs of these sources."""
    return cases(lambda case: case.group in groups)


def raw(group: str) -> list[dict[str, Any]]:
    """The lines of a source as they are written, for what `Case` does not hold."""
    lines = CALIBRATION.read_text(encoding="utf-8").splitlines()
    tables = [json.loads(line) for line in lines if line.strip()]
    return [table for table in tables if table["group"] == group]


def predicted(found: Iterable[Case], what: str = "predict") -> list[Outcome]:
    """The predictions of these runs; those that cannot be laid out have a reason."""
    found, progress, outcomes = list(found), ProgressLine(), list[Outcome]()
    for case in found:
        outcomes.append(evaluate(case))
        progress(what, len(outcomes), len(found))
    return outcomes


def made_up(group: str, name: str, **parts: Any) -> Case:
    """A run as its paper describes it, of which no step time is in the files.

    `group` says whose software it is (stacks.toml); `parts`: model, hardware, parallel.
    """
    table = {
        "id": name,
        "group": group,
        "source_where": "as described in the paper",
        "precision": "fp16",
        "measured": {},
        "quality": "C",
        "complete": False,
        "core": False,
        **parts,
    }
    return case_of(table, name)


def step_s(case: Case) -> float:
    """The predicted step; raises `ParplanError` where the run cannot be laid out."""
    outcome = evaluate(case)
    if outcome.step_s is None:
        raise ParplanError(f"{case.id}: {outcome.reason}")
    return outcome.step_s


def read_in_paper(name: str) -> dict[str, Any]:
    """A table of `read_in_papers.json`, with its source and how it was read."""
    tables = read_json(FIGURES)
    assert isinstance(tables, dict)
    found = tables[name]
    assert isinstance(found, dict)
    return found
