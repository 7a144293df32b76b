"""Predictions of published cases beside what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from parplan.errors import ParplanError
from parplan.experiments.cases.doubtful import doubts_alone, doubts_of
from parplan.experiments.cases.read import Case
from parplan.experiments.cases.request import CaseRequest, request_of
from parplan.sim.analysis.time_split import BUBBLE, time_split
from parplan.sim.memory.verdict import (
    ALLOCATOR,
    Verdict,
    is_expected_to_fit,
    reserve_of,
    verdict_on,
)
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import Framework

SHARES = {
    "compute": ("compute", "recomputation"),
    "tensor_parallel": ("tensor exchange",),
    "context_parallel": ("context exchange",),
    "expert_parallel": ("expert exchange",),
    "pipeline": ("messages",),
    "bubble": BUBBLE,
    "data_parallel": ("gradient reduction", "parameter gather"),
    "optimizer": ("optimizer",),
    "launch": ("launch", "software"),
}
"""Where the time of a step goes, and the parts of a time split that each stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case: predicted and measured, or why it could not be predicted."""

    case: Case
    request: CaseRequest | None = None
    reason: str = ""
    """Why there is no prediction; empty if there is one."""
    step_s: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the predicted step, by the names of `SHARES`."""
    peak_bytes: float | None = None
    reported_bytes: float | None = None
    """The peak as the source counts it."""
    doubts: tuple[str, ...] = ()
    """What makes measured values doubtful, a line each."""

    @property
    def status(self) -> str:
        """`predicted`, or in a word what stands in the way: hardware, model, parallel or plan."""
        if not self.reason:
            return "predicted"
        first = self.reason.partition(":")[0].partition(".")[0]
        return first if first in ("hardware", "model", "parallel") else "plan"

    @property
    def error(self) -> float | None:
        """Predicted over measured step time, minus one."""
        if self.step_s is None or self.case.step_s is None:
            return None
        return self.step_s / self.case.step_s - 1

    @property
    def memory_error(self) -> float | None:
        """Predicted over reported peak memory, minus one."""
        measured = self.case.peak_memory_bytes
        if self.reported_bytes is None or measured is None:
            return None
        return self.reported_bytes / measured - 1

    @property
    def fits(self) -> bool | None:
        """Whether the plan is expected to fit in memory."""
        if self.peak_bytes is None or self.request is None:
            return None
        return is_expected_to_fit(self.peak_bytes, self.request.cluster.accelerator)

    @property
    def verdict(self) -> Verdict | None:
        """The same with a margin."""
        if self.peak_bytes is None or self.request is None:
            return None
        return verdict_on(self.peak_bytes, self.request.cluster.accelerator)


def evaluate(case: Case, constants: Mapping[str, Framework] | None = None) -> Outcome:
    """Predict one case; what cannot be expressed is an outcome with a reason.

    `constants`: by source, the framework that its runs are predicted with in place of theirs.
    """
    try:
        request = request_of(case)
        if constants and case.group in constants:
            workload = replace(request.workload, framework=constants[case.group])
            request = replace(request, workload=workload)
        compiled = compile_plan(request.workload, request.cluster, request.plan)
    except ParplanError as error:
        return Outcome(case=case, reason=str(error), doubts=doubts_alone(case))
    run = predict(compiled)
    split = time_split(request.workload, request.cluster, compiled, run)
    peak = reported = compiled.peak_bytes + request.stack.bucket_bytes
    if request.stack.reported_memory != "allocated":
        reported = ALLOCATOR.expected * peak
    if request.stack.reported_memory == "device":
        reported += reserve_of(request.cluster.accelerator).expected
    return Outcome(
        case=case,
        request=request,
        step_s=run.step_s,
        shares={name: split.share(*parts) for name, parts in SHARES.items()},
        peak_bytes=peak,
        reported_bytes=reported,
        doubts=doubts_of(case, request.workload, request.cluster, compiled.memory),
    )
