"""Lower bounds on all plans of a space, made layout by layout as a search asks for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from parplan.planners.bounds.layout_lower_bounds import layout_lower_bounds
from parplan.planners.bounds.space_table import ScheduleKey, SpaceTable
from parplan.planners.bounds.tightened import MomentsOf, tighten
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.spaces.layouts import LayoutGroup
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.moments import Moments
from parplan.sim.ticks import Ints


class _Opened(NamedTuple):
    """Layouts whose plans were bounded together."""

    table: SpaceTable
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Where the plans of the table are in the whole space."""
    bounds: Floats
    """Of the plans of the table."""
    judged: set[ScheduleKey]
    """Schedules whose lists were compared with the memory."""


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
        parts = [self._chosen(number, ceiling) for number in layouts]
        parts = [part for part in parts if len(part[1])]
        if not parts:
            return []
        groups = tuple(group for group, _ in parts)
        rows = np.concatenate([own for _, own in parts])
        table = SpaceTable(replace(self.space, groups=groups), self._memory_ratio, self._parts)
        bounds = table.wanted_bounds()
        tighten(table, bounds, ceiling, self._moments_of)
        self.of_plans[rows] = bounds
        self._tables.append(_Opened(table, rows, bounds, set()))
        order = np.argsort(bounds, kind="stable")
        found: list[int] = rows[order[: int(np.isfinite(bounds).sum())]].tolist()
        return found

    def open_all(self) -> int:
        """Bound the plans of all layouts that are not open yet; how many plans these are."""
        rest = [number for number in range(len(self.space.groups)) if number not in self._opened]
        if rest:
            self.open(rest)
        return sum(self.space.groups[number].size for number in rest)

    def is_judged(self, key: ScheduleKey) -> bool:
        """Whether `rule_out` has nothing more to find for the lists of this schedule."""
        return all(key in opened.judged for opened in self._tables)

    def rule_out(self, key: ScheduleKey, moments: Sequence[Moments]) -> None:
        """Make the bounds infinite of all opened plans with this `schedule_key` that do not fit."""
        for opened in self._tables:
            if key not in opened.judged:
                opened.judged.add(key)
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
