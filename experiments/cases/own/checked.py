"""A fit to own runs together with what it makes of runs that are held out."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parplan.experiments.cases.own.fit import (
    OwnFit,
    check_runs,
    fit_own,
    held_out_errors,
    relative_error,
)
from parplan.experiments.cases.own.machine_factors import MachineSetting
from parplan.experiments.cases.own.runs import OwnRun, cached_errors, shipped_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFit:
    """A fit to all runs, and the errors of each run: predicted over measured time, minus one."""

    runs: tuple[OwnRun, ...]
    fit: OwnFit
    shipped: tuple[float, ...]
    """With the shipped constants."""
    held_out: tuple[float, ...]
    """With constants that are fitted to the other configurations."""
    fitted: tuple[float, ...]
    """With the fit itself, which has seen the run."""

    @property
    def is_better(self) -> bool:
        """Whether runs that are held out are predicted better than with the shipped constants."""
        return mean_size(self.held_out) < mean_size(self.shipped)

    @property
    def setting(self) -> MachineSetting:
        """The fitted constants if they are better, otherwise the shipped ones."""
        return self.fit.setting if self.is_better else self.fit.start


def fit_checked(runs: Sequence[OwnRun]) -> CheckedFit:
    """Fit to `runs`, and to parts of them; raises `ParplanError` as `check_runs` says."""
    check_runs(runs)
    start = shipped_setting(runs)
    errors = cached_errors(start)
    fit = fit_own(runs, errors)
    return CheckedFit(
        runs=tuple(runs),
        fit=fit,
        shipped=tuple(relative_error(run, start) for run in runs),
        held_out=tuple(held_out_errors(runs, errors)),
        fitted=tuple(relative_error(run, fit.setting) for run in runs),
    )


def mean_size(errors: Iterable[float]) -> float:
    """Mean of the absolute errors."""
    return statistics.fmean(map(abs, errors))
