"""Plans of a space as array rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from parplan.planners.spaces.layouts import LayoutGroup, Ordering
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.plan import Plan
from parplan.sim.schedules import ScheduleKind, schedule_kind
from parplan.sim.ticks import Ints


@dataclass(frozen=True, slots=True)
class RowBlock:
    """The rows of one group with one number of chunks and of copies of a stage.

    Recomputation x ZeRO x sequence parallel.
    """

    group: LayoutGroup
    first: int
    """The place of the group's first plan in the space."""
    virtual: int
    ends: int
    """As `Ordering.ends`."""
    one_copy: bool
    """Whether every stage is on one rank, which tells what its parameters cost."""
    kinds: tuple[ScheduleKind, ...]
    """What the orderings with so many chunks look like to the bound, each once."""
    numbers: tuple[tuple[int, ScheduleKind], ...]
    """The place of each of these orderings among those of the group, and what it looks like."""
    inner: tuple[int, int, int]
    """Values of recomputation, ZeRO, sequence parallelism."""
    size: int
    """Rows."""
    patterns: tuple[Ints, Ints, Ints]
    """Which value each row has, by what the values depend on: `OUTER`, `ZERO`, `ONE`."""
    plans: dict[tuple[int, int, int], Plan]
    """Those that were asked for."""

    def ordering_of(self, schedule: str) -> int | None:
        """The place of the schedule, with so many chunks, among the orderings of the group."""
        wanted = Ordering(schedule, self.virtual, self.ends)
        own = (number for number, _ in self.numbers if self.group.orderings[number] == wanted)
        return next(own, None)

    def places(self, number: int) -> slice:
        """Positions in the space of the plans with that ordering."""
        begin = self.first + number * self.size
        return slice(begin, begin + self.size)

    def schedule_key(self, number: int) -> tuple[str, int, int, int]:
        """`schedule_key` of the plans with that ordering."""
        name, layout = self.group.orderings[number].schedule, self.group.layout
        return name, layout.num_stages, self.virtual, self.group.num_micro_batches

    def plan(self, recomputation: int = 0, zero: int = 0, sequence: int = 0) -> Plan:
        """The plan with those values, and the first of the orderings."""
        key = recomputation, zero, sequence
        if key not in self.plans:
            _, b, c = self.inner
            begin = self.numbers[0][0] * self.size
            number = begin + (recomputation * b + zero) * c + sequence
            self.plans[key] = self.group.plan(number)
        return self.plans[key]


def blocks_of(space: Space) -> Iterator[RowBlock]:
    """Every group of `space` by its numbers of chunks and of copies."""
    first = 0
    patterns: dict[tuple[int, int, int], tuple[Ints, Ints, Ints]] = {}
    for group in space.groups:
        shapes = [(*o[1:], schedule_kind(o.schedule).one_copy) for o in group.orderings]
        for shape in dict.fromkeys(shapes):
            numbers = tuple(
                (number, _as_bound(schedule_kind(ordering.schedule)))
                for number, ordering in enumerate(group.orderings)
                if shapes[number] == shape
            )
            kinds = tuple(dict.fromkeys(kind for _, kind in numbers))
            _, *radices = group.radices
            inner = radices[0], radices[1], radices[2]
            known = patterns.get(inner) or patterns.setdefault(inner, _patterns(inner))
            size = group.size // len(group.orderings)
            yield RowBlock(group, first, *shape, kinds, numbers, inner, size, known, {})
        first += group.size


def _as_bound(kind: ScheduleKind) -> ScheduleKind:
    """A schedule that has the same bounds: these know placement, splits and overlaps only."""
    plain = ScheduleKind(function=_nothing, placement=kind.placement)
    return replace(plain, splits_backward=kind.splits_backward, overlaps=kind.overlaps)


def _nothing(*sizes: int) -> tuple[()]:
    return ()


OUTER, ZERO, ONE = range(3)
"""What the values of a column depend on within a block: recomputation and sequence parallelism;
ZeRO; nothing."""


class Column:
    """An array with an element for each row, of which many are equal."""

    def __init__(self) -> None:
        self.values: list[Floats] = []
        self.chosen: list[Ints] = []

    def add(self, block: RowBlock, by: int, values: list[Floats]) -> None:
        """The rows of a block, of values in order."""
        self.chosen.append(len(self.values) + block.patterns[by])
        self.values += values

    def rows(self) -> Floats:
        """All of it."""
        return np.asarray(np.array(self.values)[np.concatenate(self.chosen)])


def _patterns(inner: tuple[int, int, int]) -> tuple[Ints, Ints, Ints]:
    """Values of each row of a block, by the fields on which they depend."""
    a, b, c = inner
    row = np.arange(a * b * c)
    return row // (b * c) * c + row % c, row // c % b, np.zeros_like(row)


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks with as many ranks and chunks, one below the other."""

    blocks: list[RowBlock]
    begins: list[int]
    """The first row of each block."""
    place: npt.NDArray[np.int64]
    """For each stage its kind."""
    activations: Floats
    """[rows, kinds, 3]."""
    states: Floats
    """[rows, kinds, 5]."""

    @property
    def num_ranks(self) -> int:
        """Pipeline ranks."""
        return self.blocks[0].group.layout.num_stages

    def members(self) -> Iterator[tuple[RowBlock, slice]]:
        """Each block with its rows."""
        for block, begin in zip(self.blocks, self.begins, strict=True):
            yield block, slice(begin, begin + block.size)
