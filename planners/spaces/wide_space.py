"""Spaces whose plans have variants: millions of plans, made when they are asked for."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from random import Random
from typing import Any

import numpy as np

from parplan.errors import ParplanError
from parplan.planners.spaces.space import Point, Space, point_of
from parplan.planners.spaces.variants import Box, Choices, Variant, having, plain, variant_of
from parplan.sim.plan import Plan


@dataclass(frozen=True, kw_only=True)
class WideSpace(Space):
    """The variants of every plan of a space, one plan after the other. Made by `make_space`."""

    @cached_property
    def choices(self) -> Choices:
        """The values of what variants differ in."""
        return Choices(self.workload, self.cluster, self.constraints)

    @cached_property
    def _begins(self) -> list[int]:
        """The number of the first variant of each group, and of all variants at the end."""
        return [0, *accumulate(map(self.choices.count, self.groups))]

    @cached_property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """The values that occur, by the fields of `Layout`, `Point` and `Variant`."""
        found: list[dict[Any, None]] = [{} for _ in Variant._fields]
        for group in self.groups:
            for box in {id(box): box for box in self.choices.boxes(group)}.values():
                for values, own in zip(found, box, strict=True):
                    values.update(dict.fromkeys(own))
        variants = dict(zip(Variant._fields, map(tuple, found), strict=True))
        return {**super().dimensions, **variants}

    def variants(self, row: int) -> Iterator[Plan]:
        """The plans of a row."""
        return self.choices.variants(self.row(row))

    def box(self, row: int) -> Box:
        """The values of what the plans of a row differ in."""
        return self.choices.of(self.row(row))

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = bisect_right(self._begins, index) - 1
        ends = np.cumsum(self.choices.counts(self.groups[number]))
        index -= self._begins[number]
        row = int(np.searchsorted(ends, index, side="right"))
        before = int(ends[row - 1]) if row else 0
        return self.choices.variant(self.groups[number].plan(row), index - before)

    def __iter__(self) -> Iterator[Plan]:
        for row in range(self.num_rows):
            yield from self.variants(row)

    def __contains__(self, plan: object) -> bool:
        if not isinstance(plan, Plan):
            return False
        base = plain(self._even(plan))
        if not super().__contains__(base):
            return False
        allowed = self.choices.of(base)
        return all(v in own for v, own in zip(variant_of(plan), allowed, strict=True))

    def sample(self, rng: Random) -> Plan:
        """A plan, each as likely as any other."""
        plan: Plan = self[rng.randrange(len(self))]
        return plan

    def neighbours(self, plan: Plan) -> list[Plan]:
        """Neighbours as those of a `Space`, and the next values of each variant."""
        variant, base = variant_of(plan), plain(self._even(plan))
        found = [self.choices.nearest(near, variant) for near in super().neighbours(base)]
        for name, values in zip(Variant._fields, self.choices.of(base), strict=True):
            at = getattr(plan, name)
            if at not in values:
                raise ParplanError(f"neighbours: not a plan of this space: {plan}")
            if name in ("recomputed_layers", "shard_group"):
                near_by = {
                    b if a == at else a for a, b in pairwise(_by_size(values)) if at in (a, b)
                }
                others = [value for value in values if value in near_by]
            else:
                others = [value for value in values if value != at]
            found += [having(self._even(plan), {name: value}) for value in others]
        return [other for other in dict.fromkeys(found) if other != plan]

    def nearest(self, point: Point | Mapping[str, Any], keep: str = "") -> Plan:
        """The nearest plan as that of a `Space`, with its nearest variant."""
        if not isinstance(point, Point):
            point = self.point(point)
        return self.choices.nearest(
            super().nearest(point._replace(variant=Variant()), keep), point.variant
        )


def _by_size(values: tuple[Any, ...]) -> list[Any]:
    """Ascending; None, which means all, comes last."""
    return [*(v for v in values if v is not None), *(v for v in values if v is None)]


__all__ = ["WideSpace", "point_of"]
