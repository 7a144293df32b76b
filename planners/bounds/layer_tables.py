"""Bytes and seconds of layers, and the moments of ranks, as rows of arrays for quick bounds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from parplan.planners.bounds.depths import StackedMoments, sequences_of
from parplan.planners.bounds.schedule_bounds import stages_by_rank
from parplan.planners.bounds.space_rows import RowBlock
from parplan.planners.costs.cost_tables import Key
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.costs.plan_costs import ScheduleKey
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.moments import Moments
from parplan.sim.models.parts import LayerKind
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.ticks import Ints

MomentsOf = Callable[[ScheduleKey], Sequence[Moments]]


class PlanOf(NamedTuple):
    """Plans of a block that have one of its recomputations and of its sequence parallelisms."""

    block: RowBlock
    recomputation: int
    sequence: int

    @property
    def plan(self) -> Plan:
        """One of them."""
        return self.block.plan(self.recomputation, 0, self.sequence)

    @property
    def layers(self) -> Key:
        """Key of the costs and bytes of their layers."""
        group = self.block.group
        split = group.sequence_parallel[self.sequence]
        layout = group.layout._replace(num_stages=1)
        return *layout, group.recomputations[self.recomputation], split


class StageKinds(NamedTuple):
    """The kinds of stages of plans of one shape."""

    place: Ints
    """For each stage its kind."""
    ends: Floats
    """Whether a kind is the first and the last, shape [kinds, 2]."""
    again: Ints
    """Blocks of each kind of layer that are recomputed, shape [depths, kinds, layers]."""
    plain: Ints
    """The same of those that are not."""


class LayerTables:
    """Bytes and seconds of the layers of plans with variants, as rows of arrays."""

    def __init__(self, parts: RelaxedParts, moments_of: MomentsOf) -> None:
        """`moments_of`: those of the lists of a schedule."""
        self.parts = parts
        self._moments_of = moments_of
        self._kinds: list[LayerKind] = list(dict.fromkeys(parts.workload.model.layer_kinds))
        self._bytes: dict[Key, Floats] = {}
        self._seconds: dict[Key, Floats] = {}
        self._stacked: dict[Key, StackedMoments] = {}

    def stages(self, plan: Plan, *, again: bool) -> StageKinds | None:
        """The stages of plans with as many; None where more differs than recomputed blocks."""
        box, parts = self.parts.choices.of(plan), self.parts
        single = box.gradient_dtype, box.overlap_tensor_parallel, box.offload_activations
        sequences = sequences_of(parts, plan)
        if any(len(values) > 1 for values in single) or True in box.offload_activations:
            return None
        if sequences is None or parts.layer_bytes(plan).stage_input:
            return None
        most = max(map(len, sequences))
        depths = sorted(most if d is None else d for d in box.recomputed_layers) if again else [0]
        counts = np.array(
            [
                [[seq[:depth].count(kind) for kind in self._kinds] for seq in sequences]
                for depth in depths
            ]
        )
        whole = np.array([[seq.count(kind) for kind in self._kinds] for seq in sequences])
        kinds = parts.kinds(plan)
        ends = np.array([(s.is_first, s.is_last) for s in kinds.stages], dtype=np.float64)
        return StageKinds(kinds.place, ends, counts, whole - counts)

    def bytes_of(self, of: PlanOf) -> Floats:
        """Bytes of embedding, head, and each kind of layer, not recomputed and recomputed.

        Kept, recomputed, and while it runs beside what is kept: shape [2 + 2 x layers, 3].
        """
        key = of.layers
        if key not in self._bytes:
            plan = of.plan
            own = self.parts.layer_bytes(plan)
            again = plan.recomputation != "none"
            blocks = [own.blocks[kind, a] for a in (False, again) for kind in self._kinds]
            rows = [
                (one.kept, one.whole - one.kept, one.whole - one.kept + one.working)
                for one in (own.embedding, own.head, *blocks)
            ]
            self._bytes[key] = np.array(rows)
        return self._bytes[key]

    def seconds_of(self, of: PlanOf) -> Floats:
        """Seconds of embedding, head, and each kind of layer.

        Forward, gradients of inputs and of weights, and recomputation: shape [2 + layers, 4].
        """
        key = *of.layers, of.block.group.num_micro_batches > 1
        if key not in self._seconds:
            plan = of.plan
            own = self.parts.model_costs(plan)
            again = plan.recomputation != "none"
            rows = [
                (one.forward_s, one.input_gradient_s + one.recompute_s, one.weight_gradient_s, 0.0)
                for one in (own.embedding, own.head)
            ]
            for kind in self._kinds:
                one, more = own.blocks[kind, False], own.blocks[kind, again].recompute_s
                rows.append((one.forward_s, one.input_gradient_s, one.weight_gradient_s, more))
            self._seconds[key] = np.array(rows)
        return self._seconds[key]

    def stacked(self, key: ScheduleKey, place: Ints) -> tuple[Key, StackedMoments]:
        """The moments of a schedule on such stages, and what tells them from others."""
        if schedule_kind(key[0]).by_times:
            return self._stacked_of(before_backward(key), place)
        return self._stacked_of(self._moments_of(key), place)

    def stacked_of_one(self, key: ScheduleKey, place: Ints) -> tuple[Key, StackedMoments]:
        """The same of a moment that every schedule has, of one micro-batch."""
        return self._stacked_of(before_backward(key, every=True), place)

    def _stacked_of(self, moments: Sequence[Moments], place: Ints) -> tuple[Key, StackedMoments]:
        alike = *((rank.stages, rank.counts.tobytes()) for rank in moments), place.tobytes()
        if alike not in self._stacked:
            self._stacked[alike] = StackedMoments(moments, place)
        return alike, self._stacked[alike]


def before_backward(key: ScheduleKey, *, every: bool = False) -> list[Moments]:
    """A moment of each rank that is known without the lists of a schedule, which may take long.

    So many micro-batches have gone forward through its stages, and none backward yet. `every`: as
    many as every schedule has, which is one.
    """
    name, ranks, virtual, count = key
    kind, found = schedule_kind(name), []
    for rank, own in enumerate(stages_by_rank(kind, ranks, ranks * virtual).tolist()):
        ahead = 1 if every else min(count, kind.ahead(ranks, rank))
        counts = [*([ahead] * len(own)), *([0] * (2 * len(own)))]
        found.append(Moments(tuple(own), np.array([counts], dtype=np.int64)))
    return found
