"""Runs: the events of one step, predicted by the simulator or measured with torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from parplan.sim.event_table import EventTable

if TYPE_CHECKING:
    import pandas as pd


class Event(NamedTuple):
    """Something that occupied one stream of one rank."""

    rank: int
    """Place in the pipeline."""
    stream: str
    """compute, send, or data-parallel."""
    name: str
    """The action (`0F3`) or what is communicated (`0F3>1`, `reduce 0`, `gather 0`)."""
    start_s: float
    end_s: float


class Events(Sequence[Event]):
    """The rows of a table of events; table and rows are made when they are first asked for."""

    __slots__ = ("_make", "_rows", "_table")

    def __init__(self, make: Callable[[], EventTable]) -> None:
        self._make = make
        self._table: EventTable | None = None
        self._rows: tuple[Event, ...] | None = None

    @property
    def table(self) -> EventTable:
        """All of them as columns."""
        if self._table is None:
            self._table = self._make()
        return self._table

    @property
    def rows(self) -> tuple[Event, ...]:
        """All of them."""
        if self._rows is None:
            self._rows = tuple(map(Event._make, zip(*self.table.columns(), strict=True)))
        return self._rows

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.rows[index]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Events):
            return self.table == other.table
        return self.rows == other

    def __hash__(self) -> int:
        return hash(self.rows)

    def __repr__(self) -> str:
        return f"<{len(self)} events>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training step."""

    step_s: float
    events: Sequence[Event]
    """A tuple, or a view of a table of which each event is made when it is asked for."""
    source: str = "predicted"
    """Who ran it: predicted or measured."""
    staggered: bool = False
    """Whether ranks begin and end steps at times of their own (`parplan.sim.step.step_end`): then
    `step_s` is the time from step to step, and events may lie beyond it."""

    @property
    def end_s(self) -> float:
        """When its last event ends; `step_s` unless it is staggered."""
        if not self.staggered:
            return self.step_s
        return max((event.end_s for event in self.events), default=0.0)

    @property
    def num_ranks(self) -> int:
        """Pipeline ranks that did something."""
        if isinstance(self.events, Events):
            return self.events.table.num_ranks
        return 1 + max((event.rank for event in self.events), default=-1)

    def busy_s(self, rank: int) -> float:
        """Seconds in which the compute stream of `rank` was occupied."""
        if isinstance(self.events, Events):
            return self.events.table.busy_s(rank)
        own = {
            (e.start_s, e.end_s): None  # Pairs that overlap have equal times.
            for e in self.events
            if e.rank == rank and e.stream == "compute"
        }
        return sum(end_s - start_s for start_s, end_s in own)

    @property
    def bubble(self) -> float:
        """Share of the step in which the compute streams idle, mean over the ranks."""
        if not self.events or self.step_s <= 0:
            return 0.0
        busy = sum(self.busy_s(rank) for rank in range(self.num_ranks))
        return 1.0 - busy / (self.num_ranks * self.step_s)

    def as_frame(self) -> "pd.DataFrame":
        """The events as a table with the columns of `Event`, one row each."""
        import pandas as pd

        columns: Sequence[Sequence[object]]
        if isinstance(self.events, Events):
            columns = self.events.table.columns()
        else:
            columns = list(zip(*self.events, strict=True)) or [()] * len(Event._fields)
        return pd.DataFrame(dict(zip(Event._fields, columns, strict=True)))
