"""Seconds per stage, from the operations of its layers and the model of the hardware.

A layer is a list of operations (`parplan.sim.layers`), each with its kernels and exchanges. Layers
that are alike are timed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from parplan.hardware.estimates.estimate import Estimate
from parplan.hardware.estimates.kernel_times import estimate
from parplan.hardware.kernels.kernel import Kernel, MemoryBound
from parplan.hardware.network.cluster import Cluster
from parplan.sim.cost_model.communication import Communication, KnownTimes, slowed_share
from parplan.sim.cost_model.offload import (
    host_optimizer_s,
    host_rate,
    kept_of_blocks,
    offloaded_bytes,
)
from parplan.sim.cost_model.optimizers import moved_bytes, step_s
from parplan.sim.cost_model.parameter_exchanges import (
    backward_gathers,
    gather_all_s,
    gradient_bytes,
    reduce_all_s,
)
from parplan.sim.cost_model.stage_formula import (
    LayerWork,
    ParameterWork,
    Surroundings,
    costs_of_stage,
    with_transfers,
)
from parplan.sim.cost_model.stages import (
    StageLayers,
    StageParameters,
    runs_of,
    stage_parameters,
    stages_of,
)
from parplan.sim.costs import LayerCosts, ModelCosts, StageCosts
from parplan.sim.layers.blocks import (
    KnownOps,
    Ops,
    block_ops,
    embedding_ops,
    head_ops,
    recomputed_ops,
)
from parplan.sim.layers.shapes import Shapes, shapes_of
from parplan.sim.layers.times import MachineTimes, layer_costs, recompute_s
from parplan.sim.models.parts import LayerKind, has_experts
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload


def model_costs(workload: Workload, cluster: Cluster, plan: Plan) -> ModelCosts:
    """The costs of every kind of layer for one micro-batch on one rank of `plan`."""
    timing, ops = timing_of(workload, cluster, plan), model_ops(workload, shapes_of(workload, plan))
    return with_recomputation(workload, plan, ops, plain_costs(ops, timing), timing)


class ModelOps(NamedTuple):
    """The operations of each kind of layer."""

    embedding: Ops
    blocks: Mapping[LayerKind, Ops]
    head: Ops


def model_ops(workload: Workload, x: Shapes, known: KnownOps | None = None) -> ModelOps:
    """The operations of every kind of layer with such shapes.

    `known`: those of shapes that differ in how experts are divided alone, which it adds to.
    """
    known = {} if known is None else known
    if "head" not in known:
        known["embedding"], known["head"] = embedding_ops(x), head_ops(x)
    blocks: dict[LayerKind, Ops] = {
        kind: block_ops(x, kind, known) for kind in dict.fromkeys(workload.model.layer_kinds)
    }
    return ModelOps(known["embedding"], blocks, known["head"])


def plain_costs(
    ops: ModelOps, timing: MachineTimes, known: dict[str, LayerCosts] | None = None
) -> ModelCosts:
    """The costs of every kind of layer, none of them recomputed.

    `known`: as `model_ops` has it, of layers without experts.
    """
    known = {} if known is None else known

    def costs(name: str, own: Ops) -> LayerCosts:
        if name not in known or has_experts(name):
            known[name] = layer_costs(own, frozenset(), timing)
        return known[name]

    return ModelCosts(
        embedding=costs("embedding", ops.embedding),
        blocks={(kind, False): costs(kind, own) for kind, own in ops.blocks.items()},
        head=costs("head", ops.head),
    )


def with_recomputation(
    workload: Workload, plan: Plan, ops: ModelOps, plain: ModelCosts, timing: MachineTimes
) -> ModelCosts:
    """The costs of every kind of layer, with those that `plan` recomputes; `plain`: without."""
    blocks = dict(plain.blocks)
    if plan.recomputation != "none":
        for kind, own in ops.blocks.items():
            plain_block = plain.blocks[kind, False]
            blocks[kind, True] = _recomputed(workload, plan, own, plain_block, timing)
    head = plain.head
    if recomputes_head(workload, plan):
        head = _recomputed(workload, plan, ops.head, head, timing)
    return ModelCosts(embedding=plain.embedding, blocks=blocks, head=head)


def _recomputed(
    workload: Workload, plan: Plan, ops: Ops, plain: LayerCosts, timing: MachineTimes
) -> LayerCosts:
    repeats = workload.software.selective_repeats
    if plan.recomputation == "selective" and repeats is not None:
        return replace(plain, recompute_s=repeats * plain.forward_s)
    names = recomputed_ops(plan, ops)
    if len(names) == len(ops):
        return replace(plain, recompute_s=plain.forward_s)
    return replace(plain, recompute_s=recompute_s(ops, names, timing))


def recomputes_head(workload: Workload, plan: Plan) -> bool:
    """Whether the output projection is computed again in its backward."""
    return workload.software.recomputed_head and plan.recomputation == "full"


def timing_of(
    workload: Workload, cluster: Cluster, plan: Plan, known: KnownTimes | None = None
) -> MachineTimes:
    """Kernels and exchanges of `plan` on `cluster`; equal kernels are timed once.

    `known`: as in `Communication`.
    """
    slowdown = workload.framework.kernel_slowdown
    rate = product_flop_per_s(workload, cluster, plan)

    timed: dict[Kernel, float] = {}
    # Most are asked for several times, and one is found by its number faster than by its fields.
    by_number = {} if known is None else known.kernels.setdefault(rate, {})

    def seconds(kernel: Kernel) -> float:
        found = by_number.get(id(kernel))
        if found is None:
            if kernel not in timed:
                timed[kernel] = anew(kernel)
            found = by_number[id(kernel)] = kernel, timed[kernel]
        return found[1]

    def anew(kernel: Kernel) -> float:
        if rate is None or isinstance(kernel, MemoryBound):
            return slowdown * kernel_estimate(cluster, kernel).seconds
        return kernel.flops / rate

    return MachineTimes(
        kernel_s=seconds,
        exchange_s=Communication(cluster, plan, known).exchange_s,
        framework=workload.framework,
        blocking_launches=workload.software.blocking_launches,
        overlap_exchanges=plan.overlap_tensor_parallel,
        overlap_experts=workload.software.overlap_expert_exchange,
        graphs=workload.software.step_graph or workload.software.layer_graphs,
    )


def product_flop_per_s(workload: Workload, cluster: Cluster, plan: Plan) -> float | None:
    """The rate of products and attention where it follows from the tokens of a micro-batch."""
    software = workload.software
    if software.product_share is None:
        return None
    tokens = plan.batch_per_device * workload.seq_len / plan.context_parallel
    reached = software.product_share * tokens / (tokens + software.half_rate_tokens)
    return reached * cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)


def kernel_estimate(cluster: Cluster, kernel: Kernel) -> Estimate:
    """Time of a kernel on `cluster`: as measured there, or by the model."""
    return estimate(cluster.accelerator, cluster.measured, kernel)


def stage_costs(
    workload: Workload, cluster: Cluster, plan: Plan, costs: ModelCosts
) -> tuple[StageCosts, ...]:
    """The costs of every pipeline stage: its layers, and its communication over `cluster`."""
    stages, parameters = stages_of(workload, plan), stage_parameters(workload, plan)
    links = Communication(cluster, plan)
    around = surroundings(workload, plan, links)
    known: dict[StageLayers, StageCosts] = {}
    for stage, own in zip(stages, parameters, strict=True):
        if stage not in known:
            work = layer_work(workload, plan, layer_runs(stage, costs))
            whole = costs_of_stage(work, parameter_work(workload, plan, links, own), around)
            known[stage] = _offloaded(workload, plan, cluster, stage, whole)
    return tuple(known[stage] for stage in stages)


def layer_runs(stage: StageLayers, costs: ModelCosts) -> list[tuple[LayerCosts, int]]:
    """The costs of the layers of a stage, in order, and how many of each there are."""
    return runs_of(stage, costs.embedding, costs.blocks, costs.head)


def layer_work(workload: Workload, plan: Plan, runs: Sequence[tuple[LayerCosts, int]]) -> LayerWork:
    """Time of the layers of a stage, added up.

    They are one part where the software of `workload` exchanges nothing beside them.
    """
    forward: list[float] = []
    input_gradient: list[float] = []
    weight_gradient: list[float] = []
    for layer, count in runs:
        forward += [layer.forward_s] * count
        input_gradient += [layer.input_gradient_s + layer.recompute_s] * count
        weight_gradient += [layer.weight_gradient_s] * count
    return LayerWork(
        forward_s=sum(forward),
        input_gradient_s=sum(input_gradient),
        weight_gradient_s=sum(weight_gradient),
        num_layers=1 if workload.software.exposed_exchanges else len(forward),
        backward_gathers=backward_gathers(workload, plan),
    )


def parameter_work(
    workload: Workload, plan: Plan, links: Communication, parameters: StageParameters
) -> ParameterWork:
    """Time of gathers, reductions and the optimizer on one stage."""
    own_s = optimizer_s(workload, plan, links.cluster, parameters)
    return ParameterWork(
        gathered_s=gather_all_s(workload, plan, links, parameters),
        reduced_s=reduce_all_s(workload, plan, links, parameters),
        optimizer_s=own_s + workload.framework.step_s,
    )


def surroundings(workload: Workload, plan: Plan, links: Communication) -> Surroundings:
    """Settings of `plan` and the software of `workload` for the layers of every stage."""
    neighbour = links.neighbour()
    return Surroundings(
        send_s=message_bytes(workload, plan) / neighbour.bytes_per_s,
        latency_s=neighbour.latency_s,
        message_s=host_message_s(workload, plan.num_stages),
        zero_stage=plan.zero_stage,
        overlaps_reduction=plan.overlap_gradient_reduction,
        reduces_once=reduces_once(workload, plan),
        sharding_waits=workload.software.sharded_in_lists,
        slowed_share=slowed_share(links.cluster, workload.software),
        post_validation=workload.software.post_validation,
    )


def host_message_s(workload: Workload, num_ranks: int) -> float:
    """Seconds of the host for each message of a pipeline of so many ranks."""
    seconds = workload.framework.message_s + workload.software.message_s
    return seconds if num_ranks > 1 else 0.0


def _offloaded(
    workload: Workload, plan: Plan, cluster: Cluster, stage: StageLayers, costs: StageCosts
) -> StageCosts:
    """With the activations of a stage in the host's memory where the plan puts them there."""
    if not plan.offload_activations:
        return costs
    moved = offloaded_bytes(kept_of_blocks(plan, blocks_of(workload, plan, stage)))
    rate = host_rate(cluster.accelerator, "offload_activations")
    return with_transfers(costs, moved / rate, stage.num_blocks)


def reduces_once(workload: Workload, plan: Plan) -> bool:
    """Whether gradients stay whole until one reduction per step.

    So they do in a pipeline, where the software of `workload` does so, or where a stage has two
    copies, whose gradients are reduced together.
    """
    once = workload.software.pipelines_reduce_once or not schedule_kind(plan.schedule).one_copy
    return plan.num_stages > 1 and once


def message_bytes(workload: Workload, plan: Plan) -> float:
    """Activations of one micro-batch between two stages, of one tensor-parallel rank.

    Each of the ranks sends its part, also where all of them have the whole (the scatter/gather
    optimization of Narayanan et al. 2021, arXiv:2104.04473, section 4.1).
    """
    tokens = plan.batch_per_device * workload.seq_len / plan.context_parallel
    values = tokens * workload.model.hidden_size / plan.tensor_parallel
    return workload.bytes_per_value * values


def optimizer_s(
    workload: Workload, plan: Plan, cluster: Cluster, parameters: StageParameters
) -> float:
    """Seconds of one optimizer step over the parameters of a stage.

    In the host's memory it is never taken to be faster than on the device.
    """
    sharded = plan.distribute_param

    def kernel_s(kernel: Kernel) -> float:
        return kernel_estimate(cluster, kernel).seconds

    on_device_s = step_s(workload, plan, parameters, kernel_s, is_sharded=sharded)
    if not plan.offload_optimizer:
        return on_device_s
    held = parameters.trained_share * parameters.held(plan, sharded)
    on_host_s = host_optimizer_s(
        cluster.accelerator,
        update_bytes=moved_bytes(workload, plan, parameters, sharded),
        down_bytes=gradient_bytes(workload, plan) * held,
        up_bytes=workload.bytes_per_value * held,
    )
    return max(on_device_s, on_host_s)


def ops_of(workload: Workload, plan: Plan, stage: StageLayers) -> list[tuple[Ops, bool, int]]:
    """The layers of a stage as operations: (operations, whether recomputed, how many)."""
    x = shapes_of(workload, plan)
    first = [(embedding_ops(x), False, 1)] if stage.is_first else []
    again = recomputes_head(workload, plan)
    last = [(head_ops(x), again, 1)] if stage.is_last else []
    return [*first, *blocks_of(workload, plan, stage), *last]


def blocks_of(workload: Workload, plan: Plan, stage: StageLayers) -> list[tuple[Ops, bool, int]]:
    """The same without the ends of the model."""
    x = shapes_of(workload, plan)
    return [(block_ops(x, kind), again, count) for kind, again, count in stage.blocks]
