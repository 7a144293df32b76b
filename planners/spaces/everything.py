"""The widest space: every dimension that applies to a job, with all of its values."""

from dataclasses import replace
from typing import get_args

from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import SIMULATED, Constraints, Range
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.recomputed import RECOMPUTED
from parplan.sim.plan import Recomputation
from parplan.sim.workload import Workload

LONG_SEQUENCE = 8192
"""Sequences from so many tokens on are also split over ranks (context parallelism)."""

TOKENS_OF_A_RANK = 1024
"""Context parallelism leaves at least so many tokens of a sequence on each rank."""

TOKENS_OF_A_MICRO_BATCH = 2**17
"""A micro-batch has at most so many tokens, and at least one sequence."""

MOST_TENSOR = 16
"""Tensor parallelism spans at most two nodes, or so many accelerators."""


COARSE_SCHEDULES = ("1f1b", "interleaved-1f1b")


def everything(workload: Workload, cluster: Cluster, *, offloading: bool = False) -> Constraints:
    """The constraints of `--space everything` for a job.

    Dimensions without an effect have one value: `make_space` leaves out expert parallelism without
    experts, sequence parallelism without tensor parallelism, and so on. `offloading`: also to the
    host. No published run offloads, and how much memory a host has is not modelled, so that it is
    for jobs of which nothing fits without.
    """
    is_long = workload.seq_len >= LONG_SEQUENCE
    per_node = cluster.num_accelerators // cluster.num_nodes
    # Norms are recomputed with what lies between the products of experts, where there are any.
    unlike = "norms" if workload.model.moe is not None else "norms, expert activations"
    has_host = offloading and cluster.accelerator.host_bytes_per_s is not None
    return Constraints(
        tensor_parallel=Range(max=max(MOST_TENSOR, 2 * per_node)),
        tensor_parallel_across_nodes=True,
        batch_per_device=Range(max=max(1, TOKENS_OF_A_MICRO_BATCH // workload.seq_len)),
        context_parallel=Range(max=workload.seq_len // TOKENS_OF_A_RANK) if is_long else (1,),
        expert_tensor_parallel=(1,),
        virtual_stages=Range(),
        unequal_chunks=True,
        stage_ends=(0, 2, 3),
        schedule=SIMULATED,
        recomputation=tuple(name for name in RECOMPUTED if name != unlike),
        recomputed_layers=Range(min=1),
        shard_group=Range(min=1),
        offload_optimizer=(False, True) if has_host else (False,),
        offload_activations=(False, True) if has_host else (False,),
    )


def without_limits(allowed: Constraints) -> Constraints:
    """The same with any degrees: for jobs of which nothing is left with usual ones."""
    return replace(
        allowed, tensor_parallel=Range(), context_parallel=Range(), batch_per_device=Range()
    )


def coarse_part(allowed: Constraints) -> Constraints:
    """A small part of the space: even stages, two schedules, all or no recomputation.

    Its best plan is a good one to begin a search of the whole space with. Values that `allowed`
    does not have are left out, so that the part is one.
    """
    default = Constraints()
    few: dict[str, object] = {
        "tensor_parallel_across_nodes": False,
        "unequal_chunks": False,
        "virtual_stages": default.virtual_stages,
        "stage_ends": default.stage_ends,
        "recomputed_layers": default.recomputed_layers,
        "shard_group": default.shard_group,
    }
    for name, values in (("schedule", COARSE_SCHEDULES), ("recomputation", ("none", "full"))):
        few[name] = tuple(v for v in values if v in getattr(allowed, name)) or getattr(
            allowed, name
        )
    return replace(allowed, **few)  # type: ignore[arg-type]


def with_options(allowed: Constraints, options: Options) -> Constraints:
    """The constraints, narrowed by the options that a search has."""
    given: dict[str, object] = {"memory_ratio": options.memory_ratio}
    if options.num_stages != "auto":
        given["num_stages"] = Range(max=options.num_stages)
    if not options.pipeline_parallel:
        given["num_stages"] = (1,)
    if options.num_micro_batches != "auto":
        given["num_micro_batches"] = (options.num_micro_batches,)
    if options.activation_recomputation is False:
        given["recomputation"] = ("none",)
    if options.activation_recomputation is True:
        given["recomputation"] = tuple(n for n in allowed.recomputation if n != "none")
    if options.distribute_parameter != "auto":
        given["zero_stage"] = (1, 2, 3) if options.distribute_parameter else (0,)
    return replace(allowed, **given)  # type: ignore[arg-type]


def executable_part(allowed: Constraints) -> Constraints:
    """The constraints without dimensions that only the simulator knows."""
    return replace(
        allowed,
        tensor_parallel_across_nodes=False,
        context_parallel=(1,),
        expert_parallel=(1,),
        expert_tensor_parallel=(),
        recomputation=tuple(n for n in allowed.recomputation if n in get_args(Recomputation)),
        offload_optimizer=(False,),
        offload_activations=(False,),
    )
