"""What came of playing a plan, by the simulator (predicted) or by torch (measured)."""

from dataclasses import dataclass
from typing import NamedTuple


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training step."""

    step_s: float
    events: tuple[Event, ...]
    source: str = "predicted"
    """Who played it: predicted or measured."""

    @property
    def num_ranks(self) -> int:
        """Pipeline ranks that did something."""
        return 1 + max((event.rank for event in self.events), default=-1)

    def busy_s(self, rank: int) -> float:
        """Seconds in which the compute stream of `rank` was occupied."""
        return sum(
            e.end_s - e.start_s for e in self.events if e.rank == rank and e.stream == "compute"
        )

    @property
    def bubble(self) -> float:
        """Share of the step in which the compute streams idle, mean over the ranks."""
        if not self.events or self.step_s <= 0:
            return 0.0
        busy = sum(self.busy_s(rank) for rank in range(self.num_ranks))
        return 1.0 - busy / (self.num_ranks * self.step_s)
