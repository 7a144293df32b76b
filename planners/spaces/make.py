"""The space of plans for a workload, a cluster and the constraints of a user."""

from collections.abc import Callable
from typing import get_args

from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.empty import why_empty
from parplan.planners.spaces.layouts import JobSizes, groups, sizes_of
from parplan.planners.spaces.options import SCHEDULES, Options
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.wide_space import WideSpace
from parplan.sim.plan import Plan, Recomputation
from parplan.sim.workload import Workload


def make_space(
    workload: Workload,
    cluster: Cluster,
    constraints: Constraints | None = None,
    why_not: Callable[[Plan], str] | None = None,
) -> Space:
    """The space of `workload` on `cluster`; `why_not`: as in `Space`.

    Raises `ParplanError` when it is empty, naming the constraints that rule every plan out.
    """
    allowed = Constraints() if constraints is None else constraints
    found = tuple(groups(sizes_of(workload, cluster, allowed), allowed))
    if not found:
        raise why_empty(workload, cluster, allowed)
    kind = WideSpace if allowed.has_variants else Space
    return kind(
        workload=workload, cluster=cluster, constraints=allowed, groups=found, why_not=why_not
    )


def full_space(workload: Workload, cluster: Cluster, options: Options) -> Space:
    """TP x PP x DP x micro-batch x schedule x recomputation x ZeRO under the user's options.

    Tensor parallelism stays inside a node and brings sequence parallelism where it divides the
    sequence. Raises `ParplanError` as `make_space` does.
    """
    return make_space(workload, cluster, constraints_of_options(options))


def constraints_of_options(options: Options) -> Constraints:
    """The options that a search has, as constraints."""
    recomputation = get_args(Recomputation)
    if options.activation_recomputation != "auto":
        recomputation = ("selective", "full") if options.activation_recomputation else ("none",)
    zero = {"auto": (0, 1, 2, 3), True: (1, 2, 3), False: (0,)}[options.distribute_parameter]
    count = options.num_micro_batches
    stages = None if options.num_stages == "auto" else options.num_stages
    return Constraints(
        num_stages=Range(max=stages if options.pipeline_parallel else 1),
        expert_parallel=(1,),
        num_micro_batches=Range() if count == "auto" else (count,),
        virtual_stages=(1,),
        schedule=SCHEDULES,
        recomputation=recomputation,
        zero_stage=zero,
        sequence_parallel=(True,),
        memory_ratio=options.memory_ratio,
    )


def full_candidates(workload: Workload, cluster: Cluster, options: Options) -> list[Plan]:
    """The plans of `full_space` as a list; empty where there is none."""
    allowed = constraints_of_options(options)
    return candidates_of(sizes_of(workload, cluster, allowed), allowed)


def candidates_of(sizes: JobSizes, allowed: Constraints) -> list[Plan]:
    """The plans of the space of a job of such sizes as a list; empty where there is none."""
    return [plan for group in groups(sizes, allowed) for plan in map(group.plan, range(group.size))]
