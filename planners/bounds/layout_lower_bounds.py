"""Lower bounds on the steps of all plans of a layout, before any of them is looked at."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.spaces.layouts import LayoutGroup
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_costs import reduces_once
from parplan.sim.plan import Plan, with_values

SLACK = 1 - 1e-6
"""What sums in another order, and rounding every action to picoseconds, may add."""


_ONE_STAGE = {"num_stages": 1, "virtual_stages": 1, "stage_layers": None, "schedule": "1f1b"}

Memo = dict[tuple[object, ...], Any]


def layout_lower_bounds(space: Space, parts: CostTables, limit_bytes: float) -> list[list[float]]:
    """Lower bounds on the step of each group, by ZeRO stage, in seconds.

    Infinite for groups whose ranks cannot hold all parameters, or a micro-batch.

    The slowest rank has at least its share of the work of all micro-batches and of the optimizer,
    and one micro-batch has to pass all stages forward and backward. A layout that does not fit does
    not fit with larger micro-batches.
    """
    known: Memo = {}
    to_host = True in space.constraints.offload_activations
    too_large: dict[tuple[int, ...], int] = {}
    found = list[list[float]]()
    for group in space.groups:
        degrees, size = group.layout.degrees, group.layout.batch_per_device
        ranks = group.layout.num_stages
        holding: list[_Sharded | None] = []
        if size < too_large.get(degrees, size + 1):
            held = 0.0 if to_host else _held_bytes(group, parts, known)
            states = _remembered(known, ("state", degrees), partial(_states, group, parts))
            holding = [
                one
                if one.whole_bytes * SLACK <= limit_bytes * ranks
                and (held + one.block_bytes / ranks) * SLACK <= limit_bytes
                else None
                for one in states
            ]
        if not any(holding):
            too_large[degrees] = min(size, too_large.get(degrees, size))
            found.append([np.inf] * len(group.zero_stages))
            continue
        key = "work", group.layout._replace(num_stages=1), group.num_micro_batches > 1
        work = _remembered(known, key, partial(_work, group, parts))
        found.append([_floor_s(group, work, one) for one in holding])
    return found


def _floor_s(group: LayoutGroup, work: "list[_Layers]", sharded: "_Sharded | None") -> float:
    """Seconds of a step with a ZeRO stage; None: it does not fit."""
    if sharded is None:
        return np.inf
    least = min(_work_s(layers, sharded) for layers in work)
    share_s = (group.num_micro_batches * least + sharded.optimizer_s) / group.layout.num_stages
    return max(share_s, min(map(_chain_s, work))) * SLACK


class _Sharded(NamedTuple):
    """A ZeRO stage, of all pipeline stages together."""

    whole_bytes: float
    """Of all parameters and what belongs to them."""
    block_bytes: float
    """Of those of the blocks; some are left out."""
    optimizer_s: float
    forward_s: float
    """Of the gathers in the forward of a micro-batch."""
    backward_s: float
    """Of the exchanges in its backward."""


_Layers = tuple[float, float, float]
"""Seconds of the whole model for a micro-batch: forward, gradients of inputs, of weights."""


def _work_s(layers: _Layers, sharded: _Sharded) -> float:
    """Seconds of a micro-batch on all stages: layers or, beside them, exchanges."""
    forward_s, input_s, weight_s = layers
    return max(forward_s, sharded.forward_s) + max(input_s, sharded.backward_s) + weight_s


def _chain_s(layers: _Layers) -> float:
    """Seconds of a micro-batch that others wait for."""
    return layers[0] + layers[1]


def _remembered(known: Memo, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
    if key not in known:
        known[key] = make()
    return known[key]


def _work(group: LayoutGroup, parts: CostTables) -> list[_Layers]:
    """With and without sequence parallelism."""
    # To compute something again makes nothing shorter.
    plans = _of_one_stage(group, ("none",))
    return [tuple(parts.layers(plan)[:, :3].sum(axis=0).tolist()) for plan in plans]


def _states(group: LayoutGroup, parts: CostTables) -> list[_Sharded]:
    """By ZeRO stage."""
    found = []
    for number in range(len(group.zero_stages)):
        first = group.plan(number * len(group.sequence_parallel))
        plan = with_values(first, _ONE_STAGE)
        found.append(
            _Sharded(
                float(parts.states(plan)[:, :3].sum()),
                _of_blocks(first, parts),
                float(parts.optimizer(plan).sum()),
                *_exchanges_s(group, first, parts),
            )
        )
    return found


def _exchanges_s(group: LayoutGroup, plan: Plan, parts: CostTables) -> tuple[float, float]:
    """Seconds of the exchanges beside a forward and a backward on all stages.

    With full sharding these are of each block and end of the model, in whichever stage it is. Those
    of others depend on the division into stages, and are left out.
    """
    if plan.zero_stage < 3:
        return 0.0, 0.0
    even = with_values(plan, {"virtual_stages": 1, "stage_layers": None, "schedule": "1f1b"})
    work = parts.parameters(even)[parts.kinds(even).place]
    gathered_s, reduced_s = work[:, 0].sum(), work[:, 1].sum()
    schedules = dict.fromkeys(ordering.schedule for ordering in group.orderings)
    each_time = not any(
        reduces_once(parts.workload, with_values(plan, {"schedule": name})) for name in schedules
    )
    return float(gathered_s), float(gathered_s + each_time * reduced_s)


def _of_blocks(plan: Plan, parts: CostTables) -> float:
    """Bytes of the parameters of the inner blocks, and of what belongs to them.

    Inner are all but the first and the last; 0 without a pipeline.
    """
    layers = parts.workload.model.num_layers
    if plan.num_stages == 1 or layers < 3:
        return 0.0
    each = with_values(plan, {**_ONE_STAGE, "num_stages": layers})
    place = parts.kinds(each).place[1:-1]
    return float(parts.states(each)[place, :3].sum())


def _held_bytes(group: LayoutGroup, parts: CostTables, known: Memo) -> float:
    """Bytes of activations that the fullest rank holds at least beside the mean state of blocks.

    When a rank goes backward through the last of its blocks for the first time, it holds a
    micro-batch of all of them, and what is recomputed of one.
    """
    layout, ranks = group.layout._replace(num_stages=1), group.layout.num_stages
    key = "bytes", layout
    blocks = _remembered(known, key, partial(_bytes_of_blocks, group, parts))
    return float(min(kept / ranks + again for kept, again in blocks))


def _bytes_of_blocks(group: LayoutGroup, parts: CostTables) -> list[tuple[float, float]]:
    """Bytes kept of a micro-batch by the inner blocks, and the least recomputed of a block.

    For each choice of what is recomputed; inner are all but the first and the last.
    """
    kinds = parts.workload.model.layer_kinds
    found = []
    # What the others keep lies between these two.
    for plan in _of_one_stage(group, ("none", "full")):
        blocks = parts.layer_bytes(plan).blocks
        again = plan.recomputation != "none"
        kept = sum(blocks[kind, again].kept for kind in kinds[1:-1])
        rest = [blocks[kind, again].whole - blocks[kind, again].kept for kind in set(kinds)]
        found.append((kept, min(rest)))
    return found


def _of_one_stage(group: LayoutGroup, enough: tuple[str, ...]) -> Iterator[Plan]:
    """Plans of the group as if it had no pipeline, by recomputation and sequence parallelism.

    `enough`: the recomputation that is looked at, where the group has all of it.
    """
    _, _, stages, sequences = group.radices
    names = group.recomputations
    few = enough if set(enough) <= set(names) else names
    for r in (names.index(name) for name in few):
        for s in range(sequences):
            yield with_values(group.plan(r * stages * sequences + s), _ONE_STAGE)
