"""A user's own measured runs, ready to be predicted under many settings of the constants."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.cases.own.constants import COUNT, limits, setting_at
from parplan.experiments.cases.own.machine_factors import MachineSetting, with_factors
from parplan.experiments.cases.read import Case
from parplan.experiments.cases.request import CaseRequest, request_of
from parplan.hardware.machines.cached_cluster import with_kernel_cache
from parplan.hardware.network.cluster import Cluster
from parplan.sim.fast.fast import fast_step_s
from parplan.sim.prediction.predict import Scheduled, compile_plan, scheduled
from parplan.sim.step.tape import Tape, lower


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRun:
    """A run that can be predicted, and what was already predicted for it."""

    case: Case
    request: CaseRequest
    lists: Scheduled
    tape: Tape
    clusters: dict[float, Cluster] = field(default_factory=dict)
    """By the factor of products: each remembers the times of its kernels."""

    def predicted_s(self, setting: MachineSetting) -> float:
        """Seconds of its step under `setting`."""
        machine = setting.machine
        known = self.clusters.get(machine.products_factor)
        if known is None:
            of_products = dataclasses.replace(machine, network_factor=1.0)
            known = with_kernel_cache(with_factors(self.request.cluster, of_products))
            self.clusters[machine.products_factor] = known
        cluster = with_factors(known, dataclasses.replace(machine, products_factor=1.0))
        workload = dataclasses.replace(self.request.workload, framework=setting.framework)
        compiled = compile_plan(workload, cluster, self.request.plan, self.lists)
        return fast_step_s(self.tape, compiled.costs)


def own_run(case: Case) -> OwnRun:
    """`case`, laid out; raises `ParplanError` for one that cannot be predicted."""
    request = request_of(case)
    lists = scheduled(request.plan)
    compile_plan(request.workload, request.cluster, request.plan, lists)
    return OwnRun(case=case, request=request, lists=lists, tape=lower(lists.schedule))


def is_timed(case: Case) -> bool:
    """Whether its step was measured."""
    return case.step_s is not None and not case.measured.oom


def shipped_setting(runs: Sequence[OwnRun]) -> MachineSetting:
    """The constants that `runs` are predicted with, from where a fit starts.

    Raises `ParplanError` if they are of different software.
    """
    used = {run.request.workload.framework.name: run.request.workload.framework for run in runs}
    if len(used) != 1:
        names = ", ".join(sorted(used))
        raise ParplanError(f"the runs are of several stacks ({names}): fit to one at a time")
    (framework,) = used.values()
    return MachineSetting(framework=framework)


Errors = Callable[[OwnRun, np.ndarray], float]
"""The logarithm of predicted over measured time of a run at a point."""


def cached_errors(start: MachineSetting) -> Errors:
    """Errors at points from `start`; each is worked out once, as folds ask for the same ones."""
    known: dict[tuple[str, bytes], float] = {}

    def error(run: OwnRun, point: np.ndarray) -> float:
        key = (run.case.id, point.tobytes())
        if key not in known:
            known[key] = log_error(run, setting_at(start, point))
        return known[key]

    return error


def log_error(run: OwnRun, setting: MachineSetting) -> float:
    """The logarithm of predicted over measured time."""
    assert run.case.step_s is not None
    return float(np.log(run.predicted_s(setting) / run.case.step_s))


def slopes(
    value: Callable[[np.ndarray], float], point: np.ndarray, start: MachineSetting, step: float
) -> np.ndarray:
    """Secants of `value` at `point` along each constant, over `step` widths, upwards if it can."""
    _, high = limits(start)
    here, found = value(point), np.empty(COUNT)
    for i in range(COUNT):
        signed = step if point[i] + step <= high[i] else -step
        moved = point.copy()
        moved[i] += signed
        found[i] = (value(moved) - here) / signed
    return found
