"""Search spaces of plans, generated rather than filtered."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import Constraints, text
from parplan.planners.spaces.layouts import Layout, LayoutGroup, Ordering, divisors
from parplan.planners.spaces.recomputed import name_of
from parplan.planners.spaces.variants import PLAIN, Box, Variant, having, variant_of
from parplan.sim.plan import Plan, layers_with_ends
from parplan.sim.workload import Workload

__all__ = ["Point", "Space", "divisors", "point_of"]


class Point(NamedTuple):
    """A plan by its dimensions; data parallelism and micro-batches follow from them."""

    layout: Layout
    ordering: Ordering
    recomputation: str
    zero_stage: int
    sequence_parallel: bool
    variant: Variant = PLAIN

    def values(self) -> dict[str, Any]:
        """The value of each dimension, by the names of `Space.dimensions`."""
        own = dict(zip(self._fields[1:-1], self[1:-1], strict=True))
        return {**self.layout._asdict(), **own, **self.variant._asdict()}

    def having(self, name: str, value: Any) -> "Point":
        """The same with another value of one dimension."""
        if name in Layout._fields:
            return self._replace(layout=self.layout._replace(**{name: value}))
        if name in Variant._fields:
            return self._replace(variant=self.variant._replace(**{name: value}))
        return self._replace(**{name: value})


def point_of(plan: Plan) -> Point:
    """The dimensions of a plan."""
    return Point(
        Layout(
            plan.tensor_parallel,
            plan.context_parallel,
            plan.num_stages,
            plan.expert_parallel,
            _expert_split(plan),
            plan.batch_per_device,
        ),
        Ordering(plan.schedule, plan.virtual_stages, ends_of(plan)),
        name_of(plan),
        plan.zero_stage,
        plan.sequence_parallel,
        variant_of(plan),
    )


def _expert_split(plan: Plan) -> int:
    """The expert split, as `Layout.expert_split`."""
    split = plan.expert_tensor_parallel
    return 0 if split is None or split == plan.tensor_parallel else split


def ends_of(plan: Plan) -> int:
    """The ends, as `Ordering.ends`; 0 for any other division of the layers."""
    layers = plan.stage_layers
    if layers is None:
        return 0
    known = (e for e in (2, 3) if layers_with_ends(sum(layers), len(layers), e) == layers)
    return next(known, 0)


@dataclass(frozen=True, kw_only=True)
class Space(Sequence[Plan]):
    """All plans for a workload on a cluster that the constraints allow, in a canonical order.

    A sequence whose length is known without making a plan. Made by `make_space`.
    """

    workload: Workload
    cluster: Cluster
    constraints: Constraints
    groups: tuple[LayoutGroup, ...] = field(repr=False)
    why_not: Callable[[Plan], str] | None = field(default=None, repr=False)
    """Why a plan of the space is not wanted, in one line; empty if it is. Evaluators then report it
    as not possible, for this reason. None: all are wanted."""

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(group.size for group in self.groups))

    @cached_property
    def _number_of(self) -> dict[Layout, int]:
        return {group.layout: number for number, group in enumerate(self.groups)}

    @cached_property
    def _sizes(self) -> dict[tuple[int, ...], list[int]]:
        """Micro-batch sizes by degrees."""
        found: dict[tuple[int, ...], list[int]] = {}
        for group in self.groups:
            found.setdefault(group.layout.degrees, []).append(group.layout.batch_per_device)
        return found

    @cached_property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """The values that occur, by the fields of `Layout` and of `Point`."""
        layouts = [set(values) for values in zip(*(g.layout for g in self.groups), strict=True)]
        values = {n: tuple(sorted(v)) for n, v in zip(Layout._fields, layouts, strict=True)}
        for name, inner in zip(
            Point._fields[1:-1], zip(*(g.choices for g in self.groups), strict=True), strict=True
        ):
            values[name] = tuple(dict.fromkeys(value for own in inner for value in own))
        return values

    def __len__(self) -> int:
        return self.num_rows

    @property
    def num_rows(self) -> int:
        """Plans without their variants: as many as there are plans, where these have none."""
        return self._ends[-1]

    def row(self, number: int) -> Plan:
        """The plan of a row, from 0 to `num_rows` - 1."""
        group = bisect_right(self._ends, number)
        return self.groups[group].plan(number - (self._ends[group] - self.groups[group].size))

    def variants(self, row: int) -> Iterator[Plan]:
        """The plans of a row."""
        yield self.row(row)

    def box(self, row: int) -> Box | None:
        """The values of what the plans of a row differ in; None where there is one alone."""
        return None

    def only(self, row: int, box: Box) -> Plan:
        """The plan of a row in a box of one variant."""
        return having(self.row(row), {name: value for name, (value,) in box._asdict().items()})

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.row(index % len(self))

    def __iter__(self) -> Iterator[Plan]:
        for group in self.groups:
            yield from map(group.plan, range(group.size))

    def __contains__(self, plan: object) -> bool:
        if not isinstance(plan, Plan):
            return False
        even = self._even(plan)
        point = point_of(even)
        return point.layout in self._number_of and Space.nearest(self, point) == even

    def _even(self, plan: Plan) -> Plan:
        """The plan without what may differ from stage to stage, where the space allows that."""
        own = self.constraints
        ends = ends_of(plan)
        named = not own.uneven_stages or (ends and ends in own.stage_ends)
        layers = plan.stage_layers if named else None
        again = None if own.uneven_recomputation else plan.recomputed_of_stages
        if (layers, again) == (plan.stage_layers, plan.recomputed_of_stages):
            return plan
        return replace(plan, stage_layers=layers, recomputed_of_stages=again)

    def sample(self, rng: Random) -> Plan:
        """A plan, each as likely as any other."""
        plan: Plan = self[rng.randrange(len(self))]
        return plan

    def neighbours(self, plan: Plan) -> list[Plan]:
        """Plans one move away, without `plan`, in a fixed order.

        A move is another value of one dimension: the next one up or down of a number, any of the
        others; or a factor that goes from one degree to another. What the move rules out is
        replaced by the nearest that is possible. Raises `ParplanError` for a plan from elsewhere.
        """
        point = point_of(plan)
        group = self._number_of.get(point.layout)
        if group is None:
            raise ParplanError(f"neighbours: not a plan of this space: {plan}")
        moves = [point._replace(layout=layout) for layout in self._layouts_near(point.layout)]
        moves += _choices(self.groups[group], point)
        found = dict.fromkeys(self.nearest(move) for move in moves)
        return [other for other in found if other != plan]

    def _layouts_near(self, layout: Layout) -> Iterator[Layout]:
        degrees = layout.degrees
        for axes in ((0,), (1,), (2,), (3,), (4,), (0, 1), (0, 2), (1, 2)):
            reached = [d for d in self._sizes if _moved(d, degrees, axes)]
            lower = [d for d in reached if d[axes[0]] < degrees[axes[0]]]
            upper = [d for d in reached if d[axes[0]] > degrees[axes[0]]]
            for near in (max(lower, default=None), min(upper, default=None)):
                if near is not None:
                    yield layout.with_degrees(near)
        sizes = self._sizes[degrees]
        place = sizes.index(layout.batch_per_device)
        for size in (*sizes[max(0, place - 1) : place], *sizes[place + 1 : place + 2]):
            yield layout._replace(batch_per_device=size)

    @property
    def fields(self) -> dict[str, tuple[Any, ...]]:
        """The values that occur, by the fields of a plan.

        The fields are `dimensions`, with `schedule` and `virtual_stages` in place of the pairs of
        both.
        """
        found = dict(self.dimensions)
        pairs = found.pop("ordering")
        for name, values in zip(Ordering._fields, zip(*pairs, strict=True), strict=True):
            found[name] = tuple(dict.fromkeys(values))
        for name in ("expert_split", "ends"):  # Where the space has a choice of them.
            if found[name] == (0,):
                del found[name]
        return found

    def point(self, wanted: Mapping[str, Any]) -> Point:
        """A point with these `fields`; those that are not given are as in the first plan.

        Raises `ParplanError` for a field that the space does not have, and for a wrong type.
        """
        found, known = point_of(self.row(0)), self.fields
        for name, value in wanted.items():
            if name not in known:
                raise unknown_name("field of this space", str(name), known)
            kinds = {type(one) for one in known[name]}
            if type(value) not in kinds:
                said = text(known[name])
                raise ParplanError(f"{name}: {value!r} is of another type than {said}")
            if name in Ordering._fields:
                ordering = found.ordering._replace(**{name: value})
                found = found._replace(ordering=ordering)
            else:
                found = found.having(name, value)
        return found

    def nearest(self, point: Point | Mapping[str, Any], keep: str = "") -> Plan:
        """The plan whose dimensions are nearest to those of `point`, the first of equals.

        `point`: also a mapping of `fields`, as in `{"tensor_parallel": 4, "zero_stage": 1}`.
        Degrees come first, then the micro-batch size, then the rest. `keep`: a dimension that
        goes before all others. Raises `ParplanError` as `point` does.
        """
        if not isinstance(point, Point):
            point = self.point(point)
        known = self._number_of.get(point.layout)
        if known is not None:
            group = self.groups[known]
        else:
            group = min(self.groups, key=lambda g: _distance(g, point, keep))
        digits = (
            _place(group.orderings, point.ordering, point.ordering.schedule),
            _place(group.recomputations, point.recomputation),
            min(range(len(group.zero_stages)), key=_gap(group.zero_stages, point.zero_stage)),
            _place(group.sequence_parallel, point.sequence_parallel),
        )
        number = 0
        for digit, radix in zip(digits, group.radices, strict=True):
            number = number * radix + digit
        return group.plan(number)


def _moved(degrees: tuple[int, ...], origin: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether `degrees` differ from `origin` in `axes` alone, and have the same product if two."""
    if any((a == b) == (i in axes) for i, (a, b) in enumerate(zip(degrees, origin, strict=True))):
        return False
    return len(axes) == 1 or math.prod(degrees[:4]) == math.prod(origin[:4])


def _choices(group: LayoutGroup, point: Point) -> Iterator[Point]:
    """Points of the same layout that differ in one dimension."""
    yield from (point._replace(ordering=value) for value in group.orderings)
    yield from (point._replace(recomputation=value) for value in group.recomputations)
    yield from (point._replace(zero_stage=value) for value in group.zero_stages)
    yield from (point._replace(sequence_parallel=value) for value in group.sequence_parallel)


def _distance(group: LayoutGroup, point: Point, keep: str) -> tuple[float, float, float]:
    apart = [
        abs(math.log((a or 0.5) / (b or 0.5)))
        for a, b in zip(group.layout, point.layout, strict=True)
    ]
    first = apart[Layout._fields.index(keep)] if keep in Layout._fields else 0.0
    if keep == "ordering":
        first = float(point.ordering not in group.orderings)
    return first, sum(apart[:-1]), apart[-1]


def _gap(values: Sequence[int], wanted: int) -> Any:
    return lambda place: abs(values[place] - wanted)


def _place(values: Sequence[Any], wanted: Any, named: str = "") -> int:
    """Index of `wanted`, or else of the first with that name, or else 0."""
    if wanted in values:
        return values.index(wanted)
    return next((i for i, value in enumerate(values) if named and value[0] == named), 0)
