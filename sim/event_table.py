"""Events of a simulated step as columns, one row per event, times in picoseconds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from parplan.sim.ticks import PS_PER_S, Ints

KINDS = ("F", "B", "I", "W", "reduce", "optimizer", "gather", "norm")
REDUCE, OPTIMIZER, GATHER, NORM = 4, 5, 6, 7

STREAMS = ("compute", "data-parallel", "send")
COMPUTE, DATA_PARALLEL, SEND = range(3)

Column = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EventTable:
    """Columns of equal length."""

    rank: Column
    stage: Column
    kind: Column
    """Index into `KINDS`."""
    micro_batch: Column
    """-1 where the event is not an action's."""
    to_stage: Column
    """The stage that a message goes to; -1 for all but messages."""
    start_ps: Ints
    end_ps: Ints

    def __len__(self) -> int:
        return len(self.rank)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventTable):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_ranks(self) -> int:
        """Ranks that did something."""
        return 1 + int(self.rank.max(initial=-1))

    def stream(self) -> Column:
        """Index into `STREAMS` of each event."""
        shared = np.isin(self.kind, (REDUCE, GATHER, NORM))
        return np.where(self.to_stage >= 0, SEND, np.where(shared, DATA_PARALLEL, COMPUTE))

    def busy_s(self, rank: int) -> float:
        """Seconds in which the compute stream of `rank` was occupied; pairs overlap wholly."""
        own = (self.rank == rank) & (self.stream() == COMPUTE)
        start, end = np.unique(np.stack((self.start_ps[own], self.end_ps[own])), axis=1)
        return int((end - start).sum()) / PS_PER_S

    def in_order(self) -> "EventTable":
        """The same events by rank, start, end and stream."""
        order = np.lexsort((self.stream(), self.end_ps, self.start_ps, self.rank))
        return EventTable(**{f.name: getattr(self, f.name)[order] for f in fields(self)})

    def columns(self) -> tuple[Sequence[object], ...]:
        """Rank, stream, name, start and end in seconds of each event."""
        rank, stream, name, *times = self.columns_ps()
        start_s, end_s = ([t / PS_PER_S for t in column] for column in times)
        return rank, stream, name, start_s, end_s

    def columns_ps(self) -> tuple[list[int], list[str], list[str], list[int], list[int]]:
        """Rank, stream, name, start and end in picoseconds of each event."""
        streams = [STREAMS[s] for s in self.stream().tolist()]
        times = self.start_ps.tolist(), self.end_ps.tolist()
        return (self.rank.tolist(), streams, self._names(), *times)

    def _names(self) -> list[str]:
        columns = (self.stage, self.kind, self.micro_batch, self.to_stage)
        return [_name(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def _name(stage: int, kind: int, micro_batch: int, to_stage: int) -> str:
    if kind >= REDUCE:
        return f"{KINDS[kind]} {stage}"
    action = f"{stage}{KINDS[kind]}{micro_batch}"
    return action if to_stage < 0 else f"{action}>{to_stage}"
