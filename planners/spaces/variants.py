"""Further choices of a plan that a space may have: how deep it recomputes, what it shards over,
overlaps and offloads. They change what stages cost and need, but no lists."""

import math
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
        for (i, r, z), box in self.boxes(group):
            found[i, r, z, :] = math.prod(map(len, box))
        return found.reshape(-1)

    def boxes(self, group: LayoutGroup) -> Iterator[tuple[tuple[int, int, int], Box]]:
        """The box of each ordering, recomputation and ZeRO stage of a group, by their places."""
        layout = group.layout
        replicas, split = group.data_parallel * layout.context_parallel, layout.tensor_parallel > 1
        for i, ordering in enumerate(group.orderings):
            stages = layout.num_stages * ordering.virtual_stages
            for r, again in enumerate(group.recomputations):
                for z, zero in enumerate(group.zero_stages):
                    yield (i, r, z), self._of(stages, replicas, split, again != "none", zero > 0)

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


def _near(allowed: Sequence[Any], value: Any) -> Any:
    """The allowed number next to `value`; the first one where it is none, or there is none."""
    numbers = [v for v in allowed if isinstance(v, int) and not isinstance(v, bool)]
    if isinstance(value, bool) or not isinstance(value, int) or not numbers:
        return allowed[0]
    return min(numbers, key=lambda v: (abs(v - value), v))
