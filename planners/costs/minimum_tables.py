"""The parts of many variants of a plan at once: the least of each number, so that a bound made of
them is a bound for every variant.

Times and bytes only enter bounds and memory in ways in which less gives less: longer work, gathers
and reductions make no path shorter (of the reduction after the last backward, a longer backward
hides more, but by no more than it takes itself), and more bytes of anything make no rank emptier.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.variants import Box, Choices
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

SLACK = 1 - 1e-9
"""What sums in another order, and rounding to picoseconds, may add."""


class RelaxedParts(CostTables):
    """The least parts of the variants of plain plans, remembered.

    What its methods say of a plan holds for all of its variants; with `_in`, for those in a box.
    A box of one variant has its own parts, but for `SLACK`.
    """

    def __init__(self, workload: Workload, cluster: Cluster, allowed: Constraints) -> None:
        super().__init__(workload, cluster)
        self.choices = Choices(workload, cluster, allowed)

    def activations(self, plan: Plan) -> Floats:
        """`Activations` of every kind of stage, shape [kinds, 3]."""
        return self.activations_in(plan, self.choices.of(plan))

    def states(self, plan: Plan) -> Floats:
        """`State` of every kind of stage, shape [kinds, 5]."""
        return self.states_in(plan, self.choices.of(plan))

    def layers(self, plan: Plan) -> Floats:
        """`LayerWork` of every kind of stage, shape [kinds, 4]."""
        return self.layers_in(plan, self.choices.of(plan))

    def parameters(self, plan: Plan) -> Floats:
        """`ParameterWork` of every kind of stage, shape [kinds, 3]."""
        return self.parameters_in(plan, self.choices.of(plan))

    def activations_in(self, plan: Plan, box: Box) -> Floats:
        """Of the shallowest and the deepest recomputation, in the host or not."""
        plans = _corners(
            plan,
            recomputed_layers=_ends(box.recomputed_layers),
            offload_activations=box.offload_activations,
        )
        own = super().activations
        found = [self._by_plain_kinds(plan, each, own(each)) for each in plans]
        return np.asarray(_least(found) * SLACK)

    def states_in(self, plan: Plan, box: Box) -> Floats:
        """Sharded over as many as possible, in every type, in the host or not."""
        plans = _corners(
            plan,
            shard_group=_ends(box.shard_group)[-1:],
            gradient_dtype=box.gradient_dtype,
            offload_optimizer=box.offload_optimizer,
        )
        own = super().states
        return np.asarray(_least(own(each) for each in plans) * SLACK)

    def layers_in(self, plan: Plan, box: Box) -> Floats:
        """Of the shallowest recomputation, in every type, with and without overlap."""
        plans = _corners(
            plan,
            recomputed_layers=_ends(box.recomputed_layers)[:1],
            gradient_dtype=box.gradient_dtype,
            overlap_tensor_parallel=box.overlap_tensor_parallel,
        )
        own = super().layers
        found = [self._by_plain_kinds(plan, each, own(each)) for each in plans]
        # Seconds, and the number of layers.
        return np.asarray(_least(found) * np.array((SLACK, SLACK, SLACK, 1.0)))

    def parameters_in(self, plan: Plan, box: Box) -> Floats:
        """Gathered and reduced in the best of the groups; on the device rather than the host."""
        plans = _corners(
            plan,
            shard_group=box.shard_group,
            gradient_dtype=box.gradient_dtype,
            offload_optimizer=sorted(box.offload_optimizer)[:1],
        )
        own = super().parameters
        return np.asarray(_least(own(each) for each in plans) * SLACK)

    def moved_in(self, plan: Plan, box: Box) -> Floats:
        """Bytes of activations that every variant moves to the host at least, shape [kinds]."""
        if False in box.offload_activations:
            return np.zeros(len(self.kinds(plan).stages))
        # What is recomputed is not kept.
        plans = _corners(plan, recomputed_layers=_ends(box.recomputed_layers))
        found = [self._by_plain_kinds(plan, each, self.moved(each)) for each in plans]
        return np.asarray(_least(found) * SLACK)

    def _by_plain_kinds(self, plan: Plan, variant: Plan, values: Floats) -> Floats:
        """Values of the kinds of stages of a variant, as the least for each kind of `plan`."""
        own, other = self.kinds(plan), self.kinds(variant)
        if np.array_equal(own.place, other.place):
            return values
        found = np.full((len(own.stages), *values.shape[1:]), np.inf)
        np.minimum.at(found, own.place, values[other.place])
        return found


def _corners(plan: Plan, **values: Iterable[Any]) -> list[Plan]:
    """The plan with every combination of the values of these fields."""
    plans = [plan]
    for name, own in values.items():
        plans = [replace(each, **{name: value}) for each in plans for value in own]
    return plans


def _ends(values: tuple[int | None, ...]) -> list[int | None]:
    """The least and the largest; None, which means all, is the largest."""
    numbers = sorted(value for value in values if value is not None)
    ordered: list[int | None] = [*numbers, *([None] if None in values else [])]
    return [ordered[0]] if len(ordered) == 1 else [ordered[0], ordered[-1]]


def _least(arrays: Iterable[Floats]) -> Floats:
    return np.asarray(np.minimum.reduce(list(arrays)))
