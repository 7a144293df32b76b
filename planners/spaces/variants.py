"""Further choices of a plan that a space may have.

How deep it recomputes, what it shards over, overlaps and offloads. They change what stages cost and
need, but no lists.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.layouts import LayoutGroup, divisors
from parplan.sim.plan import Plan, with_values
from parplan.sim.workload import Workload


class Variant(NamedTuple):
    """The further choices, by the fields of `Plan`; the defaults are those of a plain plan."""

    recomputed_layers: int | None = None
    shard_group: int | None = None
    gradient_dtype: str = "as computed"
    overlap_gradient_reduction: bool = True
    overlap_tensor_parallel: bool = False
    offload_optimizer: bool = False
    offload_activations: bool = False


class Box(NamedTuple):
    """Variants by the values that each field may have: every combination of them."""

    recomputed_layers: tuple[int | None, ...]
    shard_group: tuple[int | None, ...]
    gradient_dtype: tuple[str, ...]
    overlap_gradient_reduction: tuple[bool, ...]
    overlap_tensor_parallel: tuple[bool, ...]
    offload_optimizer: tuple[bool, ...]
    offload_activations: tuple[bool, ...]


PLAIN = Variant()
_PLAIN_VALUES = PLAIN._asdict()


def variant_of(plan: Plan) -> Variant:
    """The further choices of a plan."""
    return Variant(*(getattr(plan, name) for name in Variant._fields))


def having(plan: Plan, values: dict[str, Any]) -> Plan:
    """The plan with other values of some fields."""
    return with_values(plan, values)


def plain(plan: Plan) -> Plan:
    """The plan with none of them."""
    return with_values(plan, _PLAIN_VALUES)


class Choices:
    """Allowed values of each variant of a plain plan: only those with an effect."""

    def __init__(self, workload: Workload, cluster: Cluster, allowed: Constraints) -> None:
        self._num_layers = workload.model.num_layers
        self._allowed = allowed
        self._has_host = cluster.accelerator.host_bytes_per_s is not None
        self._known: dict[tuple[object, ...], Box] = {}

    def of(self, plan: Plan) -> Box:
        """The values of each field of `Variant`, in its order."""
        return self._of(
            *(plan.total_stages, plan.replicas, plan.tensor_parallel > 1),
            *(plan.recomputation != "none", plan.zero_stage > 0),
        )

    def _of(self, stages: int, replicas: int, split: bool, recomputed: bool, sharded: bool) -> Box:
        key = stages, replicas, split, recomputed, sharded
        if key not in self._known:
            own = self._allowed
            self._known[key] = Box(
                self._depths(stages) if recomputed else (None,),
                self._groups(replicas) if sharded else (None,),
                own.gradient_dtype,
                own.overlap_gradient_reduction if replicas > 1 else (True,),
                own.overlap_tensor_parallel if split else (False,),
                own.offload_optimizer if self._has_host else (False,),
                own.offload_activations if self._has_host else (False,),
            )
        return self._known[key]

    def variants(self, plan: Plan) -> Iterator[Plan]:
        """Every variant of a plain plan, in a fixed order."""
        for values in product(*self.of(plan)):
            yield having(plan, dict(zip(Variant._fields, values, strict=True)))

    def variant(self, plan: Plan, number: int) -> Plan:
        """The variant with that number of a plain plan."""
        values: dict[str, Any] = {}
        named = zip(reversed(Variant._fields), reversed(self.of(plan)), strict=True)
        for name, allowed in named:
            number, digit = divmod(number, len(allowed))
            values[name] = allowed[digit]
        return with_values(plan, values)

    def counts(self, group: LayoutGroup) -> npt.NDArray[np.int64]:
        """The number of variants of each plan of a group, in its order."""
        found = np.empty(group.radices, dtype=np.int64)
        again = np.array([name != "none" for name in group.recomputations])
        sharded = np.array([zero > 0 for zero in group.zero_stages])
        places: dict[int, list[int]] = {}
        for place, ordering in enumerate(group.orderings):
            places.setdefault(ordering.virtual_stages, []).append(place)
        for virtual, own in places.items():
            sizes = [[_size(box) for box in row] for row in self._boxes_of(group, virtual)]
            by_kind = np.array(sizes)[again.astype(int)][:, sharded.astype(int)]
            found[own] = by_kind[None, :, :, None]
        return found.reshape(-1)

    def count(self, group: LayoutGroup) -> int:
        """The number of variants of all plans of a group."""
        num_again = sum(name != "none" for name in group.recomputations)
        num_sharded = sum(zero > 0 for zero in group.zero_stages)
        plain = len(group.recomputations) - num_again, len(group.zero_stages) - num_sharded
        of_rows = 0
        for virtual, number in Counter(o.virtual_stages for o in group.orderings).items():
            (neither, sharded), (again, both) = self._boxes_of(group, virtual)
            of_rows += number * (
                plain[0] * (plain[1] * _size(neither) + num_sharded * _size(sharded))
                + num_again * (plain[1] * _size(again) + num_sharded * _size(both))
            )
        return of_rows * len(group.sequence_parallel)

    def boxes(self, group: LayoutGroup) -> Iterator[Box]:
        """The boxes of the plans of a group, each once or more."""
        again = {name != "none" for name in group.recomputations}
        sharded = {zero > 0 for zero in group.zero_stages}
        for virtual in dict.fromkeys(o.virtual_stages for o in group.orderings):
            of_kinds = self._boxes_of(group, virtual)
            yield from (of_kinds[i][j] for i in again for j in sharded)

    def _boxes_of(self, group: LayoutGroup, virtual: int) -> list[list[Box]]:
        """Boxes of plans with so many chunks: not recomputed or so, not sharded or so."""
        layout = group.layout
        stages, replicas = (
            layout.num_stages * virtual,
            group.data_parallel * layout.context_parallel,
        )
        split = layout.tensor_parallel > 1
        return [
            [self._of(stages, replicas, split, again, sharded) for sharded in (False, True)]
            for again in (False, True)
        ]

    def nearest(self, plan: Plan, wanted: Variant) -> Plan:
        """The variant of a plain plan that has most of the values that are wanted."""
        values: dict[str, Any] = {
            name: value if value in allowed else _near(allowed, value)
            for name, value, allowed in zip(Variant._fields, wanted, self.of(plan), strict=True)
        }
        return with_values(plan, values)

    def _depths(self, stages: int) -> tuple[int | None, ...]:
        most = -(-self._num_layers // stages)
        allowed = self._allowed.recomputed_layers
        return (None, *(depth for depth in range(1, most) if depth in allowed))

    def _groups(self, replicas: int) -> tuple[int | None, ...]:
        allowed = self._allowed.shard_group
        return (None, *(g for g in divisors(replicas) if 1 < g < replicas and g in allowed))


def _size(box: Box) -> int:
    return math.prod(map(len, box))


def _near(allowed: Sequence[Any], value: Any) -> Any:
    """The allowed number next to `value`; the first one where it is none, or there is none."""
    numbers = [v for v in allowed if isinstance(v, int) and not isinstance(v, bool)]
    if isinstance(value, bool) or not isinstance(value, int) or not numbers:
        return allowed[0]
    return min(numbers, key=lambda v: (abs(v - value), v))
