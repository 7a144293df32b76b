"""parplan's own candidate space: every way to divide the devices, generated, not filtered."""

from collections.abc import Iterator
from typing import get_args

from parplan.hardware.cluster import Cluster
from parplan.planners.options import Options
from parplan.sim.plan import Plan, Recomputation, zero_fields
from parplan.sim.schedules import SCHEDULES
from parplan.sim.workload import Workload


def full_candidates(workload: Workload, cluster: Cluster, options: Options) -> list[Plan]:
    """TP x PP x DP x micro-batch x schedule x recomputation x ZeRO, in a canonical order.

    Tensor parallelism stays inside a node and brings sequence parallelism where it divides the
    sequence; the options restrict the fields they name.
    """
    return [
        plan
        for tensor in _tensor_degrees(workload, cluster)
        for stages in _stage_counts(workload, cluster, options, tensor)
        for plan in _plans(workload, cluster, options, tensor, stages)
    ]


def divisors(number: int) -> list[int]:
    """All divisors of `number`, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _tensor_degrees(workload: Workload, cluster: Cluster) -> list[int]:
    per_node = cluster.num_accelerators // cluster.num_nodes
    model = workload.model
    sizes = (model.num_kv_heads, model.ffn_size, model.hidden_size)
    return [t for t in divisors(per_node) if all(size % t == 0 for size in sizes)]


def _stage_counts(workload: Workload, cluster: Cluster, options: Options, tensor: int) -> list[int]:
    limit = workload.model.num_layers if options.pipeline_parallel else 1
    if options.num_stages != "auto":
        limit = min(limit, options.num_stages)
    return [s for s in divisors(cluster.num_accelerators // tensor) if s <= limit]


def _plans(
    workload: Workload, cluster: Cluster, options: Options, tensor: int, stages: int
) -> Iterator[Plan]:
    replicas = cluster.num_accelerators // tensor // stages
    if workload.global_batch % replicas:
        return
    per_replica = workload.global_batch // replicas
    for size in divisors(per_replica):
        micro_batches = per_replica // size
        wanted = options.num_micro_batches
        if stages > 1 and wanted not in ("auto", micro_batches):
            continue
        for schedule in SCHEDULES if stages > 1 else ("1f1b",):
            for recomputation in _recomputations(options):
                for zero in _zero_stages(options, replicas):
                    yield Plan(
                        num_stages=stages,
                        num_micro_batches=micro_batches,
                        batch_per_device=size,
                        data_parallel=replicas,
                        tensor_parallel=tensor,
                        sequence_parallel=tensor > 1 and workload.seq_len % tensor == 0,
                        recomputation=recomputation,
                        schedule=schedule,
                        **zero_fields(zero),  # type: ignore[arg-type]
                    )


def _recomputations(options: Options) -> tuple[Recomputation, ...]:
    wanted = options.activation_recomputation
    if wanted == "auto":
        return get_args(Recomputation)
    return ("selective", "full") if wanted else ("none",)


def _zero_stages(options: Options, replicas: int) -> tuple[int, ...]:
    if replicas == 1 or options.distribute_parameter is False:
        return (0,)
    return (1, 2, 3) if options.distribute_parameter is True else (0, 1, 2, 3)
