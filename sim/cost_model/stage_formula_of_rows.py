"""The costs of pipeline stages from their parts: the formula for many plans at once.

As `parplan.sim.cost_model.stage_formula` has it for one plan, in the same order, so that the
results are equal to the last bit.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class SurroundingsOfRows(NamedTuple):
    """`Surroundings` of plans, arrays of shape [rows]."""

    send_s: Floats
    latency_s: Floats
    zero_stage: Floats
    overlaps_reduction: Floats
    message_s: float
    reduces_once: bool
    sharding_waits: bool
    slowed_share: float
    post_validation: bool


def costs_of_rows(
    layers: Floats, parameters: Floats, around: SurroundingsOfRows
) -> dict[str, Floats]:
    """The fields of `StageCosts` that are not 0, shape [rows, stages].

    layers: `LayerWork`, shape [rows, stages, 5]. parameters: `ParameterWork`, [rows, stages, 3].
    """
    forward, backward, weights, count, gathers = np.moveaxis(layers, 2, 0)
    gathered, reduced, optimizer = np.moveaxis(parameters, 2, 0)
    send_s, latency_s, zero, overlaps = (values[:, None] for values in around[:4])
    message_s, once = around.message_s, around.reduces_once
    each_time = np.where(zero == 3, gathered, 0.0)
    both = np.where(zero == 3, gathers * each_time + (0.0 if once else reduced), 0.0)
    how = around.sharding_waits, around.slowed_share
    return {
        "forward_s": _gathered_for(forward, each_time, count, *how) + message_s,
        "input_gradient_s": _gathered_for(backward, both, count, *how) + message_s,
        "weight_gradient_s": weights,
        "send_s": send_s,
        "latency_s": latency_s,
        "reduce_s": reduced,
        "reduce_buckets": np.where(overlaps > 0, np.maximum(1.0, count), 1.0),
        "reduce_each_micro_batch": (zero >= 2) & (not once),
        "optimizer_s": optimizer,
        "gather_s": np.where((zero == 1) | (zero == 2), gathered, 0.0),
        "post_validation": np.full_like(reduced, around.post_validation),
    }


def _gathered_for(
    compute_s: Floats, gather_s: Floats, layers: Floats, waits: bool, slowed_share: float
) -> Floats:
    """`gathered_for_s` of arrays."""
    if waits:
        return compute_s + gather_s
    return _prefetched(compute_s, gather_s, layers, slowed_share)


def _prefetched(
    compute_s: Floats, gather_s: Floats, num_layers: Floats, slowed_share: float
) -> Floats:
    """`prefetched_s` of arrays."""
    layers = np.maximum(1.0, num_layers)
    compute, gather = compute_s / layers, gather_s / layers
    slowed = np.maximum(compute + slowed_share * gather, gather)
    return np.asarray(gather + (layers - 1) * slowed + compute)


def add_transfers(costs: dict[str, Floats], transfer_s: Floats, num_blocks: Floats) -> None:
    """`with_transfers` of arrays: transfer_s of shape [rows, stages], num_blocks of [stages]."""
    beside_s = costs["input_gradient_s"] + costs["weight_gradient_s"]
    for name, compute_s in (("forward_s", costs["forward_s"]), ("input_gradient_s", beside_s)):
        costs[name] = costs[name] + _exposed(compute_s, transfer_s, num_blocks)


def _exposed(compute_s: Floats, transfer_s: Floats, num_blocks: Floats) -> Floats:
    """`parplan.sim.cost_model.offload.exposed_s` of arrays."""
    blocks = np.maximum(1.0, num_blocks)
    compute, transfer = compute_s / blocks, transfer_s / blocks
    exposed = transfer + (blocks - 1) * np.maximum(0.0, transfer - compute)
    return np.where((num_blocks > 0) & (transfer_s > 0), exposed, 0.0)
