"""Plans in words, for the log of a training script."""

from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan

MB = 1e6


def plan_in_words(plan: Plan) -> str:
    """What a plan does, in the terms of the field."""
    parts = []
    if plan.data_parallel > 1:
        parts.append(f"data parallelism over {plan.data_parallel} replicas")
    if plan.context_parallel > 1:
        parts.append(f"context parallelism over {plan.context_parallel} parts of every sequence")
    if plan.zero_stage:
        parts.append(f"ZeRO-{plan.zero_stage}")
    if plan.tensor_parallel > 1:
        parts.append(f"tensor parallelism over {plan.tensor_parallel} processes")
    if plan.num_stages > 1:
        more = f", {plan.virtual_stages} on each process" if plan.virtual_stages > 1 else ""
        parts.append(f"a pipeline of {plan.total_stages} stages ({plan.schedule}{more})")
    if not parts:
        parts.append("no parallelism")
    rows = f"{plan.batch_per_device} row" + ("s" if plan.batch_per_device > 1 else "")
    count = plan.num_micro_batches
    parts.append(f"{count} micro-batches of {rows}" if count > 1 else f"one micro-batch of {rows}")
    if plan.recomputation != "none":
        parts.append(f"{plan.recomputation} recomputation")
    return ", ".join(parts)


def bytes_in_words(num_bytes: float) -> str:
    """As megabytes or gigabytes."""
    if num_bytes < GB:
        return f"{num_bytes / MB:.1f} MB"
    return f"{num_bytes / GB:.1f} GB"
