"""Seconds of the collectives that gather parameters and reduce gradients over replicas.

Full sharding (ZeRO-3) has a collective for each of its units, which are the blocks and the ends of
the model (Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277, section 4.2), so that what a collective
costs whatever its size is, is paid once for each of them. DeepSpeed of 2021 has one for each tensor
and a list of shards for it (Rajbhandari et al. 2021, arXiv:2104.07857, is about that code). Other
reductions go by buckets.
"""

from collections.abc import Iterable
from math import ceil

from parplan.sim.cost_model.communication import Communication
from parplan.sim.cost_model.stages import ParameterUnit, StageParameters
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload

BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK = 40_000_000, 1_000_000
"""Gradients that are reduced together beside a backward have at least so many parameters, and so
many for each data-parallel rank (Megatron-LM, core/distributed/distributed_data_parallel.py)."""

REUSE_DISTANCE = 1_000_000_000
"""Parameters are kept for a use after no more than so many others are used (DeepSpeed's
stage3_max_reuse_distance)."""


def gather_all_s(
    workload: Workload, plan: Plan, links: Communication, parameters: StageParameters
) -> float:
    """All parameters of a stage, gathered from the ranks that they are sharded over.

    Where the parameters themselves lie whole on every rank, only those that are trained.
    """
    size = workload.bytes_per_value * (
        1.0 if plan.distribute_low_prec_param else parameters.trained_share
    )
    seconds = 0.0
    for dense, experts, count, _ in exchanged_together(workload, plan, parameters, links):
        own = collective_s(workload, links, "all_gather", size * dense, "shards")
        own += collective_s(workload, links, "all_gather", size * experts, "expert replicas")
        seconds += count * (own + _host_s(workload, plan, links))
    return seconds


def reduce_all_s(
    workload: Workload, plan: Plan, links: Communication, parameters: StageParameters
) -> float:
    """All gradients of a stage, reduced over the ranks that have the same parameters."""
    software = workload.software
    sent = 4 if software.fp32_reduction else gradient_bytes(workload, plan)
    size = sent * parameters.trained_share
    whole = not plan.distribute_param or (plan.zero_stage == 1 and software.whole_reduction)
    seconds = 0.0
    if not schedule_kind(plan.schedule).one_copy:
        seconds += collective_s(workload, links, "all_reduce", size * parameters.total, "twins")
    for dense, experts, count, _ in exchanged_together(workload, plan, parameters, links):
        own = _reduce_s(workload, plan, links, size * dense, size * experts, whole)
        seconds += count * (own + _host_s(workload, plan, links))
    return seconds


def backward_gathers(workload: Workload, plan: Plan) -> int:
    """How often a backward with its recomputation gathers sharded parameters."""
    software, model = workload.software, workload.model
    if plan.recomputation != "full" or not software.recomputation_gathers:
        return 1
    largest = max(map(model.parameters_of, model.layer_kinds)) / plan.tensor_parallel
    return 2 if largest > REUSE_DISTANCE else 1


def _host_s(workload: Workload, plan: Plan, links: Communication) -> float:
    """Host time of a collective over a list of shards.

    The host makes a view of each shard and launches a copy of it, which is taken to cost what a
    collective within a layer does.
    """
    if not plan.distribute_low_prec_param or not workload.software.sharded_in_lists:
        return 0.0
    shards = links.size("shards")
    return shards * workload.framework.host_s_per_exchange if shards > 1 else 0.0


def exchanged_together(
    workload: Workload, plan: Plan, parameters: StageParameters, links: Communication
) -> Iterable[ParameterUnit]:
    """Parameters of a stage, grouped as they are gathered and reduced.

    By units (or tensors) where they are sharded themselves, by buckets where reductions go beside a
    backward, else all at once.
    """
    if plan.distribute_low_prec_param:
        units = parameters.by_unit()
        return map(_by_tensor, units) if workload.software.sharded_in_lists else units
    count = 1
    if plan.overlap_gradient_reduction:
        ranks = links.size("replicas")
        least = max(BUCKET_PARAMETERS, BUCKET_PARAMETERS_PER_RANK * ranks)
        count = max(1, ceil(parameters.total * parameters.trained_share / least))
    return [ParameterUnit(parameters.dense / count, parameters.experts / count, count)]


def _by_tensor(unit: ParameterUnit) -> ParameterUnit:
    """The matrices of such units, taken to be alike.

    What else a block has is small enough to be kept whole (DeepSpeed's
    stage3_param_persistence_threshold).
    """
    parts = unit.tensors
    return ParameterUnit(unit.dense / parts, unit.experts / parts, unit.number * parts)


def gradient_bytes(workload: Workload, plan: Plan) -> int:
    """Bytes of one gradient as it is added up and reduced."""
    return 4 if plan.gradient_dtype == "fp32" else workload.bytes_per_value


def collective_s(
    workload: Workload, links: Communication, op: str, num_bytes: float, group: str
) -> float:
    """Seconds of a collective over replicas: by the network, or at the rate of the software."""
    rate = workload.software.exchange_bytes_per_s
    if rate is None:
        return links.collective_s(op, num_bytes, group)
    size = links.size(group)
    return (2 if op == "all_reduce" else 1) * num_bytes * (size - 1) / size / rate


def _reduce_s(
    workload: Workload,
    plan: Plan,
    links: Communication,
    dense: float,
    experts: float,
    whole: bool,
) -> float:
    """Gradients of so many bytes, reduced over the data-parallel ranks, to all or to shards."""

    def seconds(op: str, num_bytes: float, group: str) -> float:
        return collective_s(workload, links, op, num_bytes, group)

    if whole:
        both = seconds("all_reduce", dense, "replicas")
        return both + seconds("all_reduce", experts, "expert replicas")
    scattered = seconds("reduce_scatter", dense, "shards")
    # Hybrid sharding: each rank's shard is then reduced over the groups.
    scattered += seconds("all_reduce", dense / plan.sharded_over, "copies")
    return scattered + seconds("reduce_scatter", experts, "expert replicas")
