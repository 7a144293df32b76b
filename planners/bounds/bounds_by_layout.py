"""Lower bounds on all plans of a space, made layout by layout as a search asks for them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from parplan.planners.bounds.layer_tables import LayerTables
from parplan.planners.bounds.layout_lower_bounds import layout_lower_bounds
from parplan.planners.bounds.screen import Screen, products
from parplan.planners.bounds.space_table import ScheduleKey, SpaceTable
from parplan.planners.bounds.tightened import MomentsOf, tighten
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.spaces.layouts import LayoutGroup
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.moments import Moments
from parplan.sim.ticks import Ints

MOST_AHEAD = 64
"""Layouts whose plans are looked at together with those of one that is opened: fewer at first, when
the ceiling may still be far above the best plan."""


class _Opened(NamedTuple):
    """Layouts whose plans were bounded together."""

    table: SpaceTable
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Where the plans of the table are in the whole space."""
    bounds: Floats
    """Of the plans of the table."""
    unjudged: set[ScheduleKey]
    """Schedules of these plans whose lists were not compared with the memory yet."""


class BoundsByLayout:
    """Lower bounds of all plans: each plan's own in opened layouts, else its layout's.

    0 where the bound of a layout was not asked for.
    """

    def __init__(
        self, space: Space, memory_ratio: float, parts: CostTables, moments_of: MomentsOf
    ) -> None:
        """`moments_of`: those of the lists of a schedule."""
        self.space = space
        self._moments_of = moments_of
        self._memory_ratio = memory_ratio
        self._parts = parts
        sizes = [group.size for group in space.groups]
        self._begins = np.concatenate(([0], np.cumsum(sizes)))
        self.of_plans = np.zeros(space.num_rows)
        """Seconds that a step of each row of the space takes at least, shape [rows]."""
        self._opened: set[int] = set()
        self._quick: dict[int, Floats] = {}
        """Quick lower bounds of the plans of layouts that are likely to be opened next."""
        self._tables: list[_Opened] = []

    @property
    def num_opened(self) -> int:
        """Layouts whose plans have bounds of their own."""
        return len(self._opened)

    @property
    def all_opened(self) -> bool:
        """Whether all layouts are open, so that `open_all` takes no time."""
        return len(self._opened) == len(self.space.groups)

    @cached_property
    def of_layouts(self) -> Floats:
        """Lower bounds of the step of every plan of each layout, in seconds, shape [layouts].

        Infinite for those of which none fits.
        """
        found = np.array([min(own) for own in self._by_zero])
        for number in range(len(found)):
            if number not in self._opened:
                self.of_plans[self._begins[number] : self._begins[number + 1]] = found[number]
        return found

    @cached_property
    def _by_zero(self) -> list[list[float]]:
        limit = self._memory_ratio * self.space.cluster.accelerator.memory_bytes
        return layout_lower_bounds(self.space, self._parts, limit)

    def _chosen(self, number: int, ceiling: float) -> tuple[LayoutGroup, Ints]:
        """The part of a layout whose ZeRO stages may be below `ceiling`, and its rows.

        The other stages get their lower bounds.
        """
        group = self.space.groups[number]
        rows = np.arange(self._begins[number], self._begins[number + 1])
        if not ceiling:
            return group, rows
        lower_bounds = np.array(self._by_zero[number])
        below = lower_bounds < ceiling
        by_zero = rows.reshape(group.radices)
        self.of_plans[by_zero] = lower_bounds[:, None]
        stages = tuple(z for z, may in zip(group.zero_stages, below, strict=True) if may)
        return group._replace(zero_stages=stages), by_zero[:, :, below].reshape(-1)

    def open(self, layouts: Sequence[int], ceiling: float = 0.0) -> list[int]:
        """Bound the plans of these layouts; the rows of those that may fit, the least first.

        Bounds below `ceiling` are tightened; above it, lower_bounds of a ZeRO stage may do.
        """
        self._opened.update(layouts)
        if self._screen is None or not 0 < ceiling < np.inf:
            parts = [self._chosen(number, ceiling) for number in layouts]
        else:
            parts = [part for n in layouts for part in self._screened(self._screen, n, ceiling)]
        parts = [part for part in parts if len(part[1])]
        if not parts:
            return []
        groups = tuple(group for group, _ in parts)
        rows = np.concatenate([own for _, own in parts])
        table = SpaceTable(replace(self.space, groups=groups), self._memory_ratio, self._parts)
        bounds = table.wanted_bounds()
        tighten(table, bounds, ceiling, self._moments_of)
        self.of_plans[rows] = bounds
        self._tables.append(_Opened(table, rows, bounds, table.schedule_keys()))
        order = np.lexsort((rows, self._turns(layouts, rows), bounds))
        found: list[int] = rows[order[: int(np.isfinite(bounds).sum())]].tolist()
        return found

    def _turns(self, layouts: Sequence[int], rows: Ints) -> Ints:
        """The place of the layout of each row among `layouts`."""
        turns = np.zeros(len(self.space.groups), dtype=np.int64)
        turns[list(layouts)] = np.arange(len(layouts))
        return np.asarray(turns[np.searchsorted(self._begins, rows, side="right") - 1])

    @cached_property
    def _screen(self) -> Screen | None:
        """Where plans have variants and even stages: what says of few that they are of interest."""
        own = self.space.constraints
        if not isinstance(self._parts, RelaxedParts) or own.is_uneven:
            return None
        limit = self._memory_ratio * self.space.cluster.accelerator.memory_bytes
        return Screen(LayerTables(self._parts, self._moments_of), limit)

    def _screened(
        self, screen: Screen, number: int, ceiling: float
    ) -> Iterator[tuple[LayoutGroup, Ints]]:
        """Parts of a layout with the rows whose quick lower bounds are below `ceiling`.

        And few others; of the rest, these are the lower bounds.
        """
        if number not in self._quick:
            self._look_at(screen, self._next_below(number, ceiling), ceiling)
        quick = self._quick.pop(number)
        rows = np.arange(self._begins[number], self._begins[number + 1])
        self.of_plans[rows] = quick
        return products(self.space.groups[number], rows, quick < ceiling)

    def _next_below(self, number: int, ceiling: float) -> list[int]:
        """A layout and those that come after it, the least lower bound first."""
        order = self._by_lower_bound
        later = order[int(np.flatnonzero(order == number)[0]) + 1 :]
        later = later[self.of_layouts[later] < ceiling].tolist()
        return [
            number,
            *[n for n in later[: min(MOST_AHEAD, 2 * self.num_opened)] if n not in self._quick],
        ]

    @cached_property
    def _by_lower_bound(self) -> Ints:
        return np.asarray(np.argsort(self.of_layouts, kind="stable"))

    def _look_at(self, screen: Screen, numbers: Sequence[int], ceiling: float) -> None:
        """Find the quick lower bounds of the plans of layouts, of many together."""
        parts = [(number, *self._chosen(number, ceiling)) for number in numbers]
        groups = tuple(group for _, group, rows in parts if len(rows))
        bounds = screen.bounds(replace(self.space, groups=groups), ceiling) if groups else None
        end = 0
        for number, _, rows in parts:
            begin, last = self._begins[number : number + 2]
            found = self._quick[number] = self.of_plans[begin:last].copy()
            if bounds is not None and len(rows):
                own = bounds[end : end + len(rows)]
                found[rows - begin] = np.maximum(found[rows - begin], own)
                end += len(rows)

    def open_all(self) -> int:
        """Bound the plans of all layouts that are not open yet; how many plans these are."""
        rest = [number for number in range(len(self.space.groups)) if number not in self._opened]
        if rest:
            self.open(rest)
        return sum(self.space.groups[number].size for number in rest)

    def is_judged(self, key: ScheduleKey) -> bool:
        """Whether `rule_out` has nothing more to find for the lists of this schedule."""
        return not any(key in opened.unjudged for opened in self._tables)

    def rule_out(self, key: ScheduleKey, moments: Sequence[Moments]) -> None:
        """Make the bounds infinite of all opened plans with this `schedule_key` that do not fit."""
        for opened in self._tables:
            if key in opened.unjudged:
                opened.unjudged.remove(key)
                opened.table.rule_out(key, moments, opened.bounds)
                self.of_plans[opened.rows] = opened.bounds

    def cell_lower_bounds(self) -> dict[tuple[int, int], float]:
        """The least of the bounds by (pipeline stages, micro-batch size)."""
        found: dict[tuple[int, int], float] = {}
        least = np.minimum.reduceat(self.of_plans, self._begins[:-1]).tolist()
        for group, own in zip(self.space.groups, least, strict=True):
            cell = group.layout.num_stages, group.layout.batch_per_device
            found[cell] = min(own, found.get(cell, np.inf))
        return found

    def memory_bytes(self) -> Floats:
        """Bytes that the fullest rank of each opened plan needs at least; infinite for others."""
        return self._of_tables(SpaceTable.memory_bounds)

    def uneven_bounds(self) -> Floats:
        """`SpaceTable.uneven_bounds` of each opened plan; infinite for others."""
        return self._of_tables(SpaceTable.uneven_bounds)

    def _of_tables(self, bounds_of: Callable[[SpaceTable], Floats]) -> Floats:
        found = np.full(self.space.num_rows, np.inf)
        for opened in self._tables:
            found[opened.rows] = bounds_of(opened.table)
        return found
