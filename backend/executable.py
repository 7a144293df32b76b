"""Executability of plans on stock PyTorch. Imports no torch."""

import itertools
from collections.abc import Callable, Iterator

from parplan.errors import ParplanError
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind, why_not
from parplan.sim.workload import Workload

RECOMPUTED_OPS = ("attention",)
"""What `parplan.backend.models.recompute` understands by selective."""


def why_not_executable(plan: Plan, num_processes: int, *, own_lists: bool = False) -> str:
    """The reason why `plan` cannot be executed by `num_processes`, in one line; empty if it can.

    own_lists: whether instruction lists are given that take the place of the plan's schedule.
    """
    reasons = [_processes(plan, num_processes), _not_built(plan), _sharding_reasons(plan)]
    if not own_lists:
        reasons.append(_schedule_reasons(plan))
    return next(itertools.chain(*reasons), "")


def check_executable(plan: Plan, num_processes: int, *, own_lists: bool = False) -> None:
    """Raise `ParplanError` with what `why_not_executable` says."""
    if reason := why_not_executable(plan, num_processes, own_lists=own_lists):
        raise ParplanError(f"plan: {reason}")


def executable_only(workload: Workload, num_processes: int) -> Callable[[Plan], str]:
    """The reason why a plan cannot train `workload` on so many processes; empty if it can.

    One line. For the `why_not` of a space of plans, so that a search finds executable ones alone.
    Raises `ParplanError` when no plan could, naming what of the workload cannot be executed.
    """
    if reason := why_not_trained(workload):
        raise ParplanError(f"{workload.model.name}: {reason}")

    def why_not_run(plan: Plan) -> str:
        return (
            why_not_executable(plan, num_processes)
            or why_not_split(workload.model, plan)
            or why_not_tied(workload.model, plan)
        )

    return why_not_run


def why_not_trained(workload: Workload) -> str:
    """The reason why no plan can train `workload`, in one line; empty if some can."""
    if reason := why_not_built(workload.model):
        return reason
    if workload.tf32:
        return "tf32 cannot be executed yet, only predicted"
    if workload.precision not in ("bf16", "fp32"):
        return f"precision {workload.precision} cannot be executed yet, only predicted"
    if workload.lora_rank:
        return "low-rank adapters cannot be executed yet, only predicted"
    if workload.dropout:
        return "dropout cannot be executed yet, only predicted"
    return ""


def why_not_built(model: Model) -> str:
    """The reason why `models.gpt` does not build `model`, in one line; empty if it does."""
    if model.moe is not None:
        return "experts cannot be executed yet, only predicted"
    if model.mla is not None:
        return "latent attention cannot be executed yet, only predicted"
    return ""


def why_not_split(model: Model, plan: Plan) -> str:
    """Why the layers of `model` cannot be split as `plan` says; empty if they can."""
    for name in ("num_heads", "num_kv_heads", "ffn_size", "vocab_size"):
        size = getattr(model, name)
        if size % plan.tensor_parallel:
            return f"tensor_parallel {plan.tensor_parallel} does not divide {name} {size}"
    return ""


def why_not_tied(model: Model, plan: Plan) -> str:
    """Why the tied ends of `model` cannot be trained by `plan`; empty if they can."""
    together = plan.num_stages > 1 and schedule_kind(plan.schedule).placement == "v"
    if model.tied_embeddings and together and plan.data_parallel > 1:
        return (
            f"tied embeddings on one rank (schedule {plan.schedule}) with data_parallel "
            f"{plan.data_parallel} cannot be executed: both stages would reduce their gradient"
        )
    return ""


def _processes(plan: Plan, num_processes: int) -> Iterator[str]:
    if plan.num_devices != num_processes:
        sizes = f"num_stages {plan.num_stages} x data_parallel {plan.data_parallel}"
        for name in ("tensor_parallel", "context_parallel"):
            if (size := getattr(plan, name)) > 1:
                sizes += f" x {name} {size}"
        yield f"{sizes} = {plan.num_devices} processes, but {num_processes} run"


def _schedule_reasons(plan: Plan) -> Iterator[str]:
    kind = schedule_kind(plan.schedule)
    if not kind.one_copy:
        yield f"schedule {plan.schedule} cannot be executed: torch's runtime has each stage once"
    if plan.num_stages > 1 or plan.virtual_stages > 1:
        reason = why_not(
            plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
        )
        if reason:
            yield f"schedule {plan.schedule}: {reason}"


def _not_built(plan: Plan) -> Iterator[str]:
    """Fields that only the simulator knows."""
    if plan.expert_parallel > 1:
        yield f"expert_parallel {plan.expert_parallel} cannot be executed yet, only predicted"
    if plan.expert_tensor_parallel not in (None, plan.tensor_parallel):
        yield (
            f"expert_tensor_parallel {plan.expert_tensor_parallel} cannot be executed yet, "
            "only predicted"
        )
    if plan.recomputation == "selective" and plan.recomputed_ops != RECOMPUTED_OPS:
        yield (
            f"recomputed_ops {', '.join(plan.recomputed_ops)} cannot be executed: selective "
            "recomputation repeats all but the products of linear layers"
        )
    for name in ("offload_optimizer", "offload_activations"):
        if getattr(plan, name):
            yield f"{name} cannot be executed yet, only predicted"
    if plan.overlap_tensor_parallel and plan.tensor_parallel > 1:
        yield "overlap_tensor_parallel cannot be executed: eager DTensor waits for its collectives"
    if not plan.overlap_gradient_reduction and plan.replicas > 1:
        yield "overlap_gradient_reduction false cannot be executed: torch reduces in the backward"


def reduces_by_hooks(plan: Plan) -> bool:
    """Whether DistributedDataParallel reduces the gradients; else fully_shard does.

    DistributedDataParallel takes no DTensors, and does not reduce the gradients of a split
    backward, which torch computes past its hooks.
    """
    split_backward = plan.num_stages > 1 and schedule_kind(plan.schedule).splits_backward
    return plan.zero_stage < 2 and plan.tensor_parallel == 1 and not split_backward


def _sharding_reasons(plan: Plan) -> Iterator[str]:
    """Combinations that torch does not support.

    As tests/backend/runtime/test_sharded_parity.py found them.
    """
    if plan.replicas == 1:
        return
    split_backward = plan.num_stages > 1 and schedule_kind(plan.schedule).splits_backward
    if split_backward and plan.distribute_low_prec_param:
        yield (
            f"distribute_low_prec_param (ZeRO-3) with schedule {plan.schedule} cannot be executed: "
            "torch's split backward finds the sharded parameters, which are not in the graph"
        )
    if plan.zero_stage != 1:
        return
    if split_backward:
        yield (
            f"distribute_param alone (ZeRO-1) with schedule {plan.schedule} cannot be executed: "
            "DistributedDataParallel does not reduce a split backward; add distribute_gradient"
        )
    if plan.tensor_parallel > 1:
        yield (
            "distribute_param alone (ZeRO-1) with tensor_parallel cannot be executed: "
            "ZeroRedundancyOptimizer cannot broadcast DTensors; add distribute_gradient"
        )
    if plan.shard_group is not None and plan.shard_group != plan.replicas:
        yield (
            f"shard_group {plan.shard_group} with distribute_param alone (ZeRO-1) cannot be "
            "executed: only fully_shard shards within groups; add distribute_gradient"
        )
    if plan.overlap_parameter_gather:
        yield (
            "overlap_parameter_gather with distribute_param alone (ZeRO-1) cannot be executed: "
            "ZeroRedundancyOptimizer broadcasts before its step ends"
        )
