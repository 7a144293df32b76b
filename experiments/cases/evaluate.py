"""Predictions of published cases beside what was measured."""

from dataclasses import dataclass

from parplan.experiments.cases.read import Case
from parplan.experiments.cases.request import Request, request_of
from parplan.hardware.errors import ParplanError
from parplan.sim.predict import compile_plan, predict

FRAGMENTED_SHARE = 0.048
"""What the allocator reserves beyond what is allocated: mean of peak_reserved_gib over
peak_memory_gib of the 43 runs of simumax-b200 that report both (published_calibration.jsonl)."""

CONTEXT_BYTES = 1.5 * 2**30
"""Of the device, what the driver's context and the communicators' buffers take: assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case: predicted and measured, or why it could not be predicted."""

    case: Case
    request: Request | None = None
    reason: str = ""
    """Why there is no prediction; empty if there is one."""
    step_s: float | None = None
    bubble: float | None = None
    peak_bytes: float | None = None
    limit_bytes: float | None = None
    """What the fullest device may use."""

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
        if self.peak_bytes is None or measured is None:
            return None
        return self.peak_bytes / measured - 1

    @property
    def fits(self) -> bool | None:
        """Whether the plan is predicted to fit in memory."""
        if self.peak_bytes is None or self.limit_bytes is None:
            return None
        return (1 + FRAGMENTED_SHARE) * self.peak_bytes <= self.limit_bytes


def evaluate(case: Case) -> Outcome:
    """Predict one case; what cannot be expressed is an outcome with a reason."""
    try:
        request = request_of(case)
        compiled = compile_plan(request.workload, request.cluster, request.plan)
    except ParplanError as error:
        return Outcome(case=case, reason=str(error))
    run = predict(compiled)
    return Outcome(
        case=case,
        request=request,
        step_s=run.step_s,
        bubble=run.bubble,
        peak_bytes=compiled.peak_bytes + request.stack.bucket_bytes,
        limit_bytes=request.cluster.accelerator.memory_bytes - CONTEXT_BYTES,
    )
