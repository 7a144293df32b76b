"""Exported configurations and the plan fields that they cannot express."""

from collections.abc import Callable
from dataclasses import dataclass

from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan
from parplan.sim.software.habits import MEGATRON
from parplan.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The files of one target."""

    files: dict[str, str]
    """Text by name."""
    unsaid: tuple[str, ...] = ()
    """What the target cannot express, or does otherwise: `field: reason`, one line each."""


VERSIONS = ("flash-1", "flash-2", "flash-triton")
"""Kernels of attention that are chosen by what is installed."""

Exporter = Callable[[Plan, Workload, Cluster], Exported]
"""Raises `ParplanError` for a plan of which the target could run nothing."""


def layout_line(plan: Plan, workload: Workload, cluster: Cluster) -> str:
    """Describe the exported layout in one line for the head of a file."""
    degrees = f"PP {plan.num_stages} x TP {plan.tensor_parallel} x DP {plan.data_parallel}"
    if plan.context_parallel > 1:
        degrees += f" x CP {plan.context_parallel}"
    return (
        f"{workload.model.name}, {workload.global_batch} x {workload.seq_len} tokens, on "
        f"{cluster.name} ({plan.num_devices} devices): {degrees}, {plan.num_micro_batches} "
        f"micro-batches of {plan.batch_per_device}"
    )


def per_node(cluster: Cluster) -> int:
    """Accelerators of a node."""
    return cluster.num_accelerators // cluster.num_nodes


def common_unsaid(plan: Plan, workload: Workload) -> list[str]:
    """Plan fields for which no target has a setting."""
    lines = []
    if workload.expert_load != 1:
        lines.append(
            f"workload.expert_load {workload.expert_load:g}: the routing of the data, not a setting"
        )
    if workload.attention in VERSIONS:
        lines.append(
            f"workload.attention {workload.attention}: the version of the kernel is what is "
            "installed"
        )
    if workload.software != MEGATRON:
        lines.append("workload.software: habits of a training stack, not settings")
    if workload.tf32:
        lines.append("workload.tf32: set torch.backends.cuda.matmul.allow_tf32 in the program")
    return lines
