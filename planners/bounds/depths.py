"""Least recomputed blocks with which plans fit, and how long their steps then take at least.

Of a plan with any number of recomputed blocks per stage, time is bounded by that of the fewest and
memory by that of the most, which no single plan has. Here memory and layers are known for every
number, so that a plan's time is that of a number with which it fits.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parplan.planners.bounds.space_rows import RowBlock
from parplan.planners.costs.cost_tables import layer_key, stages_key
from parplan.planners.costs.minimum_tables import SLACK, RelaxedParts
from parplan.sim.cost_model.stage_costs import layer_work
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.costs import ModelCosts
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import LayerBytes, ModelBytes, activations_of
from parplan.sim.memory.peak_of_rows import state_bytes
from parplan.sim.models.parts import LayerKind
from parplan.sim.plan import Plan, with_values
from parplan.sim.ticks import Ints
from parplan.sim.workload import Workload

Bools = npt.NDArray[np.bool_]


class Depths(NamedTuple):
    """Parts of a plan for each number of recomputed blocks of a stage, the least first."""

    activations: Floats
    """`Activations` of every kind of stage, shape [depths, kinds, 3]."""
    layers: Floats
    """The least `LayerWork` with so many or more, shape [depths, kinds, 5]."""


def depths_of(parts: RelaxedParts, plan: Plan) -> Depths | None:
    """The depths that the space allows a plan; None where they are not its only such choice."""
    box = parts.choices.of(plan)
    single = box.gradient_dtype, box.overlap_tensor_parallel, box.offload_activations
    if any(len(values) > 1 for values in single) or True in box.offload_activations:
        return None
    only = {"gradient_dtype": single[0][0], "overlap_tensor_parallel": single[1][0]}
    plan = with_values(plan, only)
    key = *layer_key(plan), plan.num_micro_batches > 1, *stages_key(plan)
    if key not in parts.of_depths:
        parts.of_depths[key] = _depths_of(parts, plan, box.recomputed_layers)
    found: Depths | None = parts.of_depths[key]
    return found


def _depths_of(parts: RelaxedParts, plan: Plan, allowed: Sequence[int | None]) -> Depths | None:
    bytes_, costs = parts.layer_bytes(plan), parts.model_costs(plan)
    sequences = sequences_of(parts, plan)
    if sequences is None or bytes_.stage_input:
        return None
    again = plan.recomputation != "none"
    most = max(map(len, sequences))
    numbers = np.array(sorted(most if d is None else d for d in allowed) if again else [0])
    stages = parts.kinds(plan).stages
    activations = np.empty((len(numbers), len(stages), 3))
    layers = np.empty((len(numbers), len(stages), 5))
    alike = *layer_key(plan), plan.num_micro_batches > 1
    for place, (stage, kinds) in enumerate(zip(stages, sequences, strict=True)):
        key = "stage", alike, kinds, stage.is_first, stage.is_last
        if key not in parts.of_depths:
            ends = stage.is_first, stage.is_last
            parts.of_depths[key] = _of_stage(parts.workload, plan, bytes_, costs, kinds, ends)
        held, work = parts.of_depths[key]
        at = np.minimum(numbers, len(kinds))
        activations[:, place], layers[:, place] = held[at], work[at]
    return Depths(activations, np.minimum.accumulate(layers[::-1], axis=0)[::-1])


def _of_stage(
    workload: Workload,
    plan: Plan,
    bytes_: ModelBytes,
    costs: ModelCosts,
    kinds: tuple[LayerKind, ...],
    is_end: tuple[bool, bool],
) -> tuple[Floats, Floats]:
    """`Activations` and `LayerWork` of a stage of which the first 0, 1, .. blocks are recomputed.

    `is_end`: whether it is the first, and the last.
    """
    again, (first, last) = plan.recomputation != "none", is_end
    ends = [(bytes_.embedding, 1)] * first + [(bytes_.head, 1)] * last
    activations = _activations(kinds, bytes_.blocks, ends, again=again)
    costs_of_ends = [(costs.embedding, 1)] * first + [(costs.head, 1)] * last
    plain = [(costs.blocks[kind, False], 1) for kind in kinds]
    more = [costs.blocks[kind, True].recompute_s if again else 0.0 for kind in kinds]
    layers = np.empty((len(kinds) + 1, 5))
    layers[:] = layer_work(workload, plan, [*costs_of_ends, *plain])
    layers[:, 1] += np.array([0.0, *accumulate(more)])
    layers[:, :3] *= SLACK
    return activations, layers


def sequences_of(parts: RelaxedParts, plan: Plan) -> list[tuple[LayerKind, ...]] | None:
    """The blocks of each kind of stage, in order; None where stages of a kind have others."""
    kinds, first = parts.workload.model.layer_kinds, 0
    found: dict[int, tuple[LayerKind, ...]] = {}
    counts = plan.layers_of_stages(len(kinds))
    for place, count in zip(parts.kinds(plan).place.tolist(), counts, strict=True):
        own = kinds[first : first + count]
        first += count
        if found.setdefault(place, own) != own:
            return None
    return [found[place] for place in range(len(found))]


def _activations(
    kinds: Sequence[LayerKind],
    blocks: dict[tuple[LayerKind, bool], LayerBytes],
    ends: Sequence[tuple[LayerBytes, int]],
    *,
    again: bool,
) -> Floats:
    """`Activations` of a stage of which the first 0, 1, .. blocks are recomputed."""
    plain = [blocks[kind, False] for kind in kinds]
    most = len(kinds) if again else 0
    rows = np.empty((most + 1, 3))
    start = np.array(activations_of([*ends, *((one, 1) for one in plain)]))
    rows[:, 0], rows[:, 2] = start[0], start[2]
    parts = [(one.kept, one.whole - one.kept) for one in plain]
    of_again = [blocks[kind, True] for kind in kinds] if again else []
    after = [(one.kept, one.whole - one.kept) for one in of_again]
    for column, i in ((0, 0), (2, 1)):
        steps = [new[i] - old[i] for new, old in zip(after, parts, strict=False)]
        rows[:, column] += np.array([0.0, *accumulate(steps)])
    working = [one.whole - one.kept + one.working for one in plain]
    new = [one.whole - one.kept + one.working for one in of_again]
    least = activations_of(ends).recomputed_bytes
    begin = [0.0, *accumulate(new, max)]
    rest = [*list(accumulate(reversed(working), max))[::-1], 0.0]
    rows[:, 1] = [max(least, begin[d], rest[d]) for d in range(most + 1)]
    return rows


class StackedMoments:
    """The moments of the ranks of a schedule, those with equal kinds of stages together."""

    def __init__(self, moments: Sequence[Moments], place: Ints) -> None:
        found: dict[tuple[int, ...], dict[bytes, Ints]] = {}
        for rank in moments:
            kinds = tuple(int(place[stage]) for stage in rank.stages)
            found.setdefault(kinds, {})[rank.counts.tobytes()] = rank.counts
        self.by_kinds = [
            (list(kinds), np.concatenate(list(own.values())).astype(np.float64))
            for kinds, own in found.items()
        ]

    def may_fit(self, activations: Floats, states: Floats, limit: float) -> Bools:
        """Whether each may fit, with every state, shape [activations, states]; up to rounding."""
        fits = np.ones((len(activations), len(states)), dtype=bool)
        for kinds, counts in self.by_kinds:
            weights = [activations[:, kinds, column] for column in (0, 2, 1)]
            held = (counts @ np.concatenate(weights, axis=1).T).max(axis=0)
            total = held[:, None] + state_bytes(states, kinds)
            fits &= total * SLACK <= limit
        return fits


class Needed(NamedTuple):
    """Rows of a block, by their places in it, with the least layers with which they fit."""

    rows: Ints
    layers: Floats
    """[rows, kinds, 5]."""


def least_depths(
    block: RowBlock, depths: Sequence[Depths], states: Floats, fits: StackedMoments, limit: float
) -> tuple[Ints, Needed]:
    """The rows of a block that fit with no depth, and those that need more than the least one.

    depths: by recomputation and sequence parallelism. states: [ZeRO stages, kinds, 5].
    """
    may = fits.may_fit(np.concatenate([one.activations for one in depths]), states, limit)
    lost, rows, layers = [], [], []
    for row, (zero, begin, one) in enumerate(_rows(block, depths)):
        own = may[begin : begin + len(one.layers), zero]
        first = int(own.argmax())
        if not own[first]:
            lost.append(row)
        elif first:
            rows.append(row)
            layers.append(one.layers[first])
    shape = (0, *depths[0].layers.shape[1:])
    found = np.array(layers) if layers else np.empty(shape)
    return np.array(lost, dtype=np.int64), Needed(np.array(rows, dtype=np.int64), found)


def _rows(block: RowBlock, depths: Sequence[Depths]) -> Iterator[tuple[int, int, Depths]]:
    """For each row of a block its ZeRO stage and where its depths begin."""
    begins = [0, *accumulate(len(one.layers) for one in depths)]
    a, b, c = block.inner
    for recomputation in range(a):
        for zero in range(b):
            for sequence in range(c):
                place = recomputation * c + sequence
                yield zero, begins[place], depths[place]
