"""The costs of a pipeline stage from its parts: the formula for one plan.

Its parts are seconds of layers, of parameters and of messages, modelled
(`parplan.sim.cost_model.stage_costs`) or measured (`parplan.backend`). The same formula for many
plans at once is in `parplan.sim.cost_model.stage_formula_of_rows`.
"""

import dataclasses
from typing import NamedTuple

from parplan.sim.cost_model.offload import exposed_s
from parplan.sim.costs import StageCosts


class LayerWork(NamedTuple):
    """Seconds of all layers of a stage for one micro-batch, without what surrounds them."""

    forward_s: float
    input_gradient_s: float
    """Including what is recomputed."""
    weight_gradient_s: float
    num_layers: int
    """Equal parts that gathers and reductions are divided into; 1: a stage measured as a whole."""
    backward_gathers: int = 1
    """How often a backward with its recomputation gathers parameters that are sharded."""


class ParameterWork(NamedTuple):
    """Seconds that the parameters of a stage cost, whatever the micro-batches are."""

    gathered_s: float
    reduced_s: float
    optimizer_s: float


class Surroundings(NamedTuple):
    """Settings of a plan and its software that hold for the layers of every stage."""

    send_s: float = 0.0
    """How long a message occupies its link."""
    latency_s: float = 0.0
    """How long after that it arrives."""
    message_s: float = 0.0
    """Seconds of the host for each message, which begins or ends a forward or a backward."""
    zero_stage: int = 0
    overlaps_reduction: bool = False
    """Whether gradients are reduced layer by layer beside the last backward."""
    reduces_once: bool = False
    """Whether gradients stay whole until one reduction per step, also where they are sharded."""
    sharding_waits: bool = False
    """Whether the computation stands still while sharded parameters are gathered and their
    gradients reduced."""
    slowed_share: float = 0.0
    """How much longer kernels take beside a gather or reduction, over the time of the latter."""
    post_validation: bool = False
    """As that of `StageCosts`."""


def costs_of_stage(
    layers: LayerWork, parameters: ParameterWork, around: Surroundings
) -> StageCosts:
    """The costs of a stage with such layers and parameters."""
    gathered, reduced, optimizer = parameters
    zero, count = around.zero_stage, layers.num_layers
    each_time = gathered if zero == 3 else 0.0
    # Backward, gathers and reductions go over the same links one after the other.
    each_backward = zero >= 2 and not around.reduces_once
    again = layers.backward_gathers * each_time
    both = again + (reduced if each_backward else 0.0) if zero == 3 else 0.0
    how, message_s = (around.sharding_waits, around.slowed_share), around.message_s
    return StageCosts(
        forward_s=gathered_for_s(layers.forward_s, each_time, count, *how) + message_s,
        input_gradient_s=gathered_for_s(layers.input_gradient_s, both, count, *how) + message_s,
        weight_gradient_s=layers.weight_gradient_s,
        send_s=around.send_s,
        latency_s=around.latency_s,
        reduce_s=reduced,
        reduce_buckets=max(1, count) if around.overlaps_reduction else 1,
        reduce_each_micro_batch=each_backward,
        optimizer_s=optimizer,
        gather_s=gathered if zero in (1, 2) else 0.0,
        post_validation=around.post_validation,
    )


def gathered_for_s(
    compute_s: float, gather_s: float, num_layers: int, waits: bool, slowed_share: float
) -> float:
    """Seconds of layers and of the gathers (and reductions) that go with them."""
    if waits:
        return compute_s + gather_s
    return prefetched_s(compute_s, gather_s, num_layers, slowed_share)


def prefetched_s(
    compute_s: float, gather_s: float, num_layers: int, slowed_share: float = 0.0
) -> float:
    """Seconds of `num_layers` equal layers, each computed once its parameters are gathered.

    Gathers run one after the other beside the computation, so only the first one, and whatever
    exceeds the computation of a layer, is exposed; beside it, kernels are slower.
    """
    layers = max(1, num_layers)
    compute, gather = compute_s / layers, gather_s / layers
    return gather + (layers - 1) * max(compute + slowed_share * gather, gather) + compute


def with_transfers(costs: StageCosts, transfer_s: float, num_blocks: int) -> StageCosts:
    """With activations of a stage moved to the host in a forward, and back in a backward.

    transfer_s: one micro-batch, one way. They come back beside all of a backward; of a split one,
    beside the second part of the one before it.
    """
    beside_s = costs.input_gradient_s + costs.weight_gradient_s
    return dataclasses.replace(
        costs,
        forward_s=costs.forward_s + exposed_s(costs.forward_s, transfer_s, num_blocks),
        input_gradient_s=costs.input_gradient_s + exposed_s(beside_s, transfer_s, num_blocks),
    )
