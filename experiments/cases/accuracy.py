"""Accuracy of predictions: errors, rank correlation within sweeps, memory verdicts."""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.read import Case
from parplan.sim.memory.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of predicted step times (or peaks) relative to the measured ones."""

    count: int
    median: float
    """Median of the absolute errors."""
    mean: float
    p90: float
    bias: float
    """Median of the signed errors."""


def errors_of(values: Iterable[float | None]) -> Errors | None:
    """The errors of those that are there; None of none."""
    signed = sorted(value for value in values if value is not None)
    if not signed:
        return None
    sizes = sorted(map(abs, signed))
    return Errors(
        count=len(signed),
        median=statistics.median(sizes),
        mean=statistics.fmean(sizes),
        p90=sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))],
        bias=statistics.median(signed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Over sweeps: the same model, batch and machine under different plans."""

    sweeps: int
    tau: float
    """Mean of Kendall's tau-b."""
    regret: float
    """Mean measured excess of the plan that is predicted to be fastest over the fastest."""


def ranks_of(outcomes: Sequence[Outcome], at_least: int = 3) -> Ranks | None:
    """Ranks within sweeps of `at_least` runs; None without one."""
    from scipy.stats import kendalltau

    taus, regrets = [], []
    for sweep in sweeps_of(outcomes):
        if len(sweep) < at_least:
            continue
        predicted = [o.step_s or 0.0 for o in sweep]
        measured = [o.case.step_s or 0.0 for o in sweep]
        if len(set(measured)) > 1 and len(set(predicted)) > 1:
            taus.append(float(kendalltau(predicted, measured).statistic))
        pick = min(sweep, key=lambda o: o.step_s or 0.0)
        regrets.append((pick.case.step_s or 0.0) / min(measured) - 1)
    if not taus:
        return None
    return Ranks(sweeps=len(taus), tau=statistics.fmean(taus), regret=statistics.fmean(regrets))


def sweeps_of(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Timed runs of one source together that differ in the plan alone."""
    sweeps: dict[object, list[Outcome]] = {}
    for o in outcomes:
        if o.error is not None:
            sweeps.setdefault(_all_but_the_plan(o.case), []).append(o)
    return list(sweeps.values())


def _all_but_the_plan(c: Case) -> tuple[object, ...]:
    """Model, data, machine and software of a run."""
    p = c.parallel
    software = (c.precision, p.attention_kernel, p.compile, p.mp_mode, p.overlap, c.task)
    return c.group, c.model, p.global_batch, c.hardware, software, _machine_state(c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Configurations that were measured more than once."""

    configurations: int
    runs: int
    spread: float
    """Half of the range of their steps over its middle, median over the configurations: no
    prediction of single runs comes closer in the median."""


def repeats_of(outcomes: Iterable[Outcome]) -> Repeats | None:
    """Runs of a source that are alike in every field, or of which one repeats the other.

    `repeat_of` says the latter. None without such.
    """
    alike: dict[object, list[float]] = {}
    named: dict[str, object] = {}
    for o in outcomes:
        c = o.case
        key = named.get(c.repeat_of) or (_all_but_the_plan(c), c.parallel, c.table)
        named[c.id] = key
        if c.step_s is not None and not c.measured.oom:
            alike.setdefault(key, []).append(c.step_s)
    found = [steps for steps in alike.values() if len(steps) > 1]
    if not found:
        return None
    return Repeats(
        configurations=len(found),
        runs=sum(map(len, found)),
        spread=statistics.median((max(s) - min(s)) / (max(s) + min(s)) for s in found),
    )


FASTER_FROM = {"bloom": "02-25"}
"""The day (month and day, as the notes of the runs have it) from which a source's nodes were
faster: BigScience, train/tr11-176B-ml/chronicles-prequel.md."""


def _machine_state(c: Case) -> bool:
    """Whether the run is from the later state of a machine that changed."""
    day = re.search(r"date (\d\d-\d\d)", c.notes)
    return day is not None and day[1] >= FASTER_FROM.get(c.group, "00-00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Correct memory verdicts among the runs that fitted in memory and among those that did not."""

    ran: int
    ran_right: int
    out_of_memory: int
    out_of_memory_right: int
    fits: int
    """With the margin of `parplan.sim.memory.verdict`: those that are said to fit."""
    fits_right: int
    does_not_fit: int
    does_not_fit_right: int
    may_fail: int

    @property
    def balanced_accuracy(self) -> float:
        """Mean of both shares."""
        return (self.ran_right / self.ran + self.out_of_memory_right / self.out_of_memory) / 2


def verdicts_of(outcomes: Iterable[Outcome]) -> Verdicts | None:
    """The verdicts of sources that record runs of both kinds; None without such."""
    known = [o for o in outcomes if o.fits is not None]
    with_failures = {o.case.group for o in known if o.case.measured.oom}
    known = [o for o in known if o.case.group in with_failures]
    clear = {verdict: [o for o in known if o.verdict == verdict] for verdict in get_args(Verdict)}

    def count(test: Callable[[Outcome], bool]) -> int:
        return sum(map(test, known))

    found = Verdicts(
        ran=count(lambda o: not o.case.measured.oom),
        ran_right=count(lambda o: not o.case.measured.oom and bool(o.fits)),
        out_of_memory=count(lambda o: o.case.measured.oom),
        out_of_memory_right=count(lambda o: o.case.measured.oom and not o.fits),
        fits=len(clear["fits"]),
        fits_right=sum(not o.case.measured.oom for o in clear["fits"]),
        does_not_fit=len(clear["does not fit"]),
        does_not_fit_right=sum(o.case.measured.oom for o in clear["does not fit"]),
        may_fail=len(clear["may fail"]),
    )
    return found if found.ran and found.out_of_memory else None
