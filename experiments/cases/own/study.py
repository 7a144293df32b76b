"""Study the use of a few measured steps: a fit to some runs of each source, tried on its others.

An experiment: nothing that is shipped comes from it. It draws from the runs that only report
accuracy, so nothing about the fit (widths, noise, what moves) may be chosen by its results.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.experiments.cases.own.checked import fit_checked
from parplan.experiments.cases.own.constants import OWN_CONSTANTS
from parplan.experiments.cases.own.fit import relative_error
from parplan.experiments.cases.own.runs import is_timed, own_run
from parplan.experiments.cases.read import Case

RUNS_FOR_A_STUDY = 15
FITTED_RUNS = 8
DRAWS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One choice of runs to fit to, and the errors of the others of the source."""

    group: str
    number: int
    fitted_ids: tuple[str, ...]
    moved: tuple[str, ...]
    is_kept: bool
    """Whether the runs that were held out within the fit were predicted better, so that it counts;
    otherwise the shipped constants stay."""
    before: tuple[float, ...]
    always: tuple[float, ...]
    """With the fitted constants, whatever was held out."""
    after: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The runs of one source, and which draw to make."""

    cases: tuple[Case, ...]
    number: int
    seed: int


def study_tasks(cases: Sequence[Case], seed: int, draws: int = DRAWS) -> list[Task]:
    """The draws for each source with enough runs that could be predicted."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if is_timed(case) and _can_run(case):
            groups.setdefault(case.group, []).append(case)
    return [
        Task(cases=tuple(groups[name]), number=number, seed=seed)
        for name in sorted(groups)
        if len(groups[name]) >= RUNS_FOR_A_STUDY
        for number in range(draws)
    ]


def _can_run(case: Case) -> bool:
    try:
        own_run(case)
    except ParplanError:
        return False
    return True


def study_draw(task: Task) -> Draw:
    """Fit to runs that are drawn by seed, source and number; predict the others."""
    group = task.cases[0].group
    draw = random.Random(f"{task.seed} {group} {task.number}")
    chosen = set(draw.sample(range(len(task.cases)), FITTED_RUNS))
    fitted = [own_run(case) for i, case in enumerate(task.cases) if i in chosen]
    others = [own_run(case) for i, case in enumerate(task.cases) if i not in chosen]
    checked = fit_checked(fitted)
    before = tuple(relative_error(run, checked.fit.start) for run in others)
    always = tuple(relative_error(run, checked.fit.setting) for run in others)
    return Draw(
        group=group,
        number=task.number,
        fitted_ids=tuple(run.case.id for run in fitted),
        moved=tuple(OWN_CONSTANTS[i].name for i in checked.fit.moved),
        is_kept=checked.is_better,
        before=before,
        always=always,
        after=always if checked.is_better else before,
    )
