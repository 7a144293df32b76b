"""The least costs of many variants of a plan at once, for bounds.

A bound made of the least of each number is a bound for every variant: times and bytes only enter
bounds and memory in ways in which less gives less. Longer work, gathers and reductions make no path
shorter (of the reduction after the last backward, a longer backward hides more, but by no more than
it takes itself), and more bytes of anything make no rank emptier.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from parplan.planners.costs.cost_tables import CostTables, Key, layer_key, parameter_key, stages_key
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.variants import Box, Choices
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.plan import Plan, with_values

SLACK = 1 - 1e-9
"""What sums in another order, and rounding to picoseconds, may add."""

Part = Literal["activations", "states", "layers", "parameters", "optimizer", "moved"]
"""The methods of `CostTables` that are relaxed."""

Values = Mapping[str, tuple[Any, ...]]
"""Values of fields of a plan, by name."""


class RelaxedParts(CostTables):
    """The least parts of the variants of plain plans, remembered.

    What its methods say of a plan holds for all of its variants; with `_in`, for those in a box.
    A box of one variant has its own parts, but for `SLACK`.
    """

    def __init__(self, parts: CostTables, allowed: Constraints) -> None:
        """`parts`: those of single plans, which are known to both."""
        super().__init__(parts.workload, parts.cluster)
        vars(self).update(vars(parts))
        self.choices = Choices(parts.workload, parts.cluster, allowed)
        self._known: dict[Key, Floats] = {}
        self.of_depths: dict[Key, Any] = {}
        """Kept for `parplan.planners.bounds.depths`."""

    def activations(self, plan: Plan) -> Floats:
        """`Activations` of every kind of stage, shape [kinds, 3]."""
        return self.activations_in(plan, self.choices.of(plan))

    def states(self, plan: Plan) -> Floats:
        """`State` of every kind of stage, shape [kinds, 5]."""
        return self.states_in(plan, self.choices.of(plan))

    def layers(self, plan: Plan) -> Floats:
        """`LayerWork` of every kind of stage, shape [kinds, 5]."""
        return self.layers_in(plan, self.choices.of(plan))

    def parameters(self, plan: Plan) -> Floats:
        """`ParameterWork` of every kind of stage, shape [kinds, 3]."""
        return self.parameters_in(plan, self.choices.of(plan))

    def activations_in(self, plan: Plan, box: Box) -> Floats:
        """Activations under the least and the most recomputation, in the host's memory or not."""
        values = {
            "recomputed_layers": _ends(box.recomputed_layers),
            "offload_activations": box.offload_activations,
        }
        key = *layer_key(plan), *stages_key(plan)
        return self._least("activations", key, plan, values, by_stage=True)

    def states_in(self, plan: Plan, box: Box) -> Floats:
        """Sharded over as many as possible, in every type, in the host or not."""
        values = {
            "shard_group": _ends(box.shard_group)[-1:],
            "gradient_dtype": box.gradient_dtype,
            "offload_optimizer": box.offload_optimizer,
        }
        return self._least("states", parameter_key(plan), plan, values)

    def layers_in(self, plan: Plan, box: Box) -> Floats:
        """Layers with the least recomputation, in every data type, with and without overlap."""
        values = {
            "recomputed_layers": _ends(box.recomputed_layers)[:1],
            "gradient_dtype": box.gradient_dtype,
            "overlap_tensor_parallel": box.overlap_tensor_parallel,
        }
        key = *layer_key(plan), plan.num_micro_batches > 1, *stages_key(plan)
        return self._least("layers", key, plan, values, by_stage=True)

    def parameters_in(self, plan: Plan, box: Box) -> Floats:
        """Gathered and reduced in the best of the groups; on the device rather than the host.

        By buckets or at once.
        """
        values = {
            "shard_group": box.shard_group,
            "gradient_dtype": box.gradient_dtype,
            "offload_optimizer": tuple(sorted(box.offload_optimizer)[:1]),
            "overlap_gradient_reduction": box.overlap_gradient_reduction,
        }
        return self._least("parameters", parameter_key(plan), plan, values)

    def optimizer(self, plan: Plan) -> Floats:
        """Seconds of the optimizer of every kind of stage, in the best of the groups."""
        box = self.choices.of(plan)
        values = {
            "shard_group": box.shard_group,
            "gradient_dtype": box.gradient_dtype,
            "offload_optimizer": tuple(sorted(box.offload_optimizer)[:1]),
        }
        return self._least("optimizer", parameter_key(plan), plan, values)

    def _least(
        self, what: Part, key: Key, plan: Plan, values: Values, *, by_stage: bool = False
    ) -> Floats:
        """The least of a part over all combinations of these values; `key`: what it depends on."""
        whole = what, key, tuple(values.values())
        if whole not in self._known:
            part_of = getattr(super(), what)
            found = [(each, part_of(each)) for each in _corners(plan, values)]
            if by_stage:
                arrays = [self._by_plain_kinds(plan, each, own) for each, own in found]
            else:
                arrays = [own for _, own in found]
            # Numbers of layers and of gathers are not rounded.
            slack = np.array((SLACK, SLACK, SLACK, 1.0, 1.0)) if what == "layers" else SLACK
            self._known[whole] = np.asarray(np.minimum.reduce(arrays) * slack)
        return self._known[whole]

    def moved_in(self, plan: Plan, box: Box) -> Floats:
        """Bytes of activations that every variant moves to the host at least, shape [kinds]."""
        if False in box.offload_activations:
            return np.zeros(len(self.kinds(plan).stages))
        # What is recomputed is not kept.
        values = {"recomputed_layers": _ends(box.recomputed_layers)}
        key = *layer_key(plan), *stages_key(plan)
        return self._least("moved", key, plan, values, by_stage=True)

    def _by_plain_kinds(self, plan: Plan, variant: Plan, values: Floats) -> Floats:
        """Values of the kinds of stages of a variant, as the least for each kind of `plan`."""
        own, other = self.kinds(plan), self.kinds(variant)
        if np.array_equal(own.place, other.place):
            return values
        found = np.full((len(own.stages), *values.shape[1:]), np.inf)
        np.minimum.at(found, own.place, values[other.place])
        return found


def _corners(plan: Plan, values: Values) -> list[Plan]:
    """The plan with every combination of the values of these fields."""
    plans = [plan]
    for name, own in values.items():
        if tuple(own) != (getattr(plan, name),):
            plans = [with_values(each, {name: value}) for each in plans for value in own]
    return plans


def _ends(values: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The least and the largest; None, which means all, is the largest."""
    numbers = sorted(value for value in values if value is not None)
    ordered: list[int | None] = [*numbers, *([None] if None in values else [])]
    return (ordered[0],) if len(ordered) == 1 else (ordered[0], ordered[-1])
