"""Trials: candidates with their verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.sim.memory.peak import GB, RankMemory
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import Scheduled, compile_plan
from parplan.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate: whether it fits, why not, and its predicted step time if it does."""

    plan: Plan
    reason: str = ""
    """Why the candidate is not possible; empty if it is."""
    memory_bytes: tuple[float, ...] = ()
    """Peak of each pipeline rank; empty for a candidate that cannot be laid out."""
    step_s: float | None = None
    """None until simulated, and for a candidate that does not fit."""

    @property
    def fits(self) -> bool:
        """Whether the candidate is possible."""
        return not self.reason


def judge(
    workload: Workload,
    cluster: Cluster,
    memory_ratio: float,
    plan: Plan,
    lists: Scheduled | None = None,
) -> Trial:
    """Compile a candidate and say whether it can be laid out and fits in memory.

    `lists`: those of the candidate, where they are at hand.
    """
    try:
        compiled = compile_plan(workload, cluster, plan, lists)
    except ParplanError as error:
        return Trial(plan=plan, reason=str(error))
    return verdict(plan, compiled.memory, cluster.accelerator.memory_bytes, memory_ratio)


def verdict(
    plan: Plan, memory: Sequence[RankMemory], device_bytes: float, memory_ratio: float
) -> Trial:
    """Whether a candidate with so much memory on each rank is possible on devices of so much."""
    limit = memory_ratio * device_bytes
    totals = tuple(rank.total_bytes for rank in memory)
    return Trial(
        plan=plan, reason=_too_large(plan, memory, limit, memory_ratio), memory_bytes=totals
    )


def _too_large(plan: Plan, memory: Sequence[RankMemory], limit: float, ratio: float) -> str:
    rank, fullest = max(enumerate(memory), key=lambda item: item[1].total_bytes)
    if fullest.total_bytes <= limit:
        return ""
    what = "stage" if plan.virtual_stages == 1 else "rank"
    return (
        f"{what} {rank}: {fullest.total_bytes / GB:.1f} of {limit / GB:.1f} GB "
        f"({ratio:.0%} of the device): {fullest}"
    )


def kind_of(plan: Plan) -> tuple[bool, ...]:
    """The kinds of parallelism that a plan uses."""
    degrees = (
        plan.num_stages,
        plan.tensor_parallel,
        plan.context_parallel,
        plan.expert_parallel,
    )
    return *(degree > 1 for degree in degrees), plan.zero_stage == 3
