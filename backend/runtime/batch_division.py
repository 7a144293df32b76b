"""Division of a global batch into replicas and micro-batches. Imports no torch."""

from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.sim.plan import Plan
from parplan.sim.schedules import why_not


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """One replica's part of a global batch."""

    rows: list[int]
    """Rows of the global batch, micro-batch after micro-batch."""
    micro_batches: int
    """Of equal size."""
    weights: tuple[float, ...]
    """What the mean loss of each counts for in the mean of this replica; 0 for a stand-in, which
    keeps the replicas in step and whose rows are another's. Averaged over the replicas, the sum is
    the mean over the global batch."""
    num_parts: int
    """Micro-batches of all replicas that are not stand-ins."""


def divide(batch: int, plan: Plan, replica: int) -> Division:
    """The part of `replica` (from 0) of a batch of so many rows.

    Where data_parallel divides the batch, every replica has as many micro-batches as fit, up to the
    plan's. Where it does not, the batch is cut into micro-batches of at most the plan's size, and
    replicas that get fewer than others have stand-ins. Raises `ParplanError` for an empty batch,
    and for a schedule that has no such number of micro-batches.
    """
    if batch < 1:
        raise ParplanError(f"batch of {batch}: there is nothing to compute")
    replicas = plan.data_parallel
    own, rest = divmod(batch, replicas)
    if rest == 0:
        limit = min(own, plan.num_micro_batches)
        count = next(m for m in range(limit, 0, -1) if own % m == 0)
        return Division(
            rows=list(range(replica * own, (replica + 1) * own)),
            micro_batches=count,
            weights=(1 / count,) * count,
            num_parts=count * replicas,
        )
    size = max(s for s in range(1, plan.batch_per_device + 1) if batch % s == 0)
    parts = batch // size
    count = _possible(plan, -(-parts // replicas))
    mine = range(replica * count, (replica + 1) * count)
    return Division(
        rows=[row for part in mine for row in _rows(part if part < parts else 0, size)],
        micro_batches=count,
        weights=tuple(replicas / parts if part < parts else 0.0 for part in mine),
        num_parts=parts,
    )


def _rows(part: int, size: int) -> range:
    return range(part * size, (part + 1) * size)


def _possible(plan: Plan, count: int) -> int:
    """The first number of micro-batches from `count` on that the schedule of `plan` has."""
    if plan.total_stages == 1:
        return count
    for more in range(count, count + 2 * plan.total_stages + 1):
        if not why_not(plan.schedule, plan.num_stages, more, plan.virtual_stages):
            return more
    reason = why_not(plan.schedule, plan.num_stages, count, plan.virtual_stages)
    raise ParplanError(f"batch: {count} micro-batches for schedule {plan.schedule}: {reason}")
