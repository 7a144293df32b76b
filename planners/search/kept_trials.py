"""The trials of a search that its answer needs, where there are more than memory holds.

How many candidates there are and how many fit is counted; held are the best of all, and of each
cell and kind the best.
"""

from bisect import insort
from dataclasses import dataclass, field
from typing import NamedTuple

from parplan.planners.costs.goal import Goal
from parplan.planners.costs.trial import Trial, kind_of


class Numbered(NamedTuple):
    """A trial and the number of its candidate, from 1 on."""

    number: int
    trial: Trial


class PartResult(NamedTuple):
    """Results of a part of the candidates: the number that fits, and the trials that are kept."""

    num_fitting: int
    held: tuple[Numbered, ...]


class _Place(NamedTuple):
    key: tuple[bool, float]
    number: int
    trial: Trial


@dataclass(slots=True, kw_only=True)
class KeptTrials:
    """The trials that an answer needs, whatever the order in which they come."""

    goal: Goal
    most: int
    best: list[_Place] = field(default_factory=list)
    """At most so many, the best first."""
    cells: dict[object, _Place] = field(default_factory=dict)
    """The best of each kind, and of each number of stages and size of a micro-batch; where nothing
    fits, the one that needs the least memory."""
    front: list[_Place] = field(default_factory=list)
    """Of step time and memory: none is beaten in both. The fastest first."""

    def add(self, numbered: Numbered) -> bool:
        """Hold a trial if it is one of them; whether it is."""
        number, trial = numbered
        late = trial.step_s is None
        key = self.goal.energy(trial) if late else self.goal.key(trial)
        place = _Place((late, key), number, trial)
        return any([self._add_cells(place), self._add_best(place), self._add_front(place)])

    def _add_cells(self, place: _Place) -> bool:
        plan, added = place.trial.plan, False
        for cell in (
            ("closest", place.trial.fits),
            ("kind", kind_of(plan)) if place.trial.fits else None,
            ("sizes", plan.num_stages, plan.batch_per_device),
        ):
            if cell is not None and (cell not in self.cells or place[:2] < self.cells[cell][:2]):
                self.cells[cell] = place
                added = True
        return added

    def _add_best(self, place: _Place) -> bool:
        if place.trial.step_s is None:
            return False
        if len(self.best) == self.most and place[:2] > self.best[-1][:2]:
            return False
        insort(self.best, place, key=lambda p: p[:2])
        del self.best[self.most :]
        return True

    def _add_front(self, place: _Place) -> bool:
        if place.trial.step_s is None:
            return False
        own = _goals(place)
        if any(a <= own[0] and b <= own[1] and (a, b, n) < own
               for a, b, n in map(_goals, self.front)):  # fmt: skip
            return False
        self.front = [p for p in self.front if not _beats(own, _goals(p))]
        insort(self.front, place, key=_goals)
        return True

    def trials(self) -> list[Numbered]:
        """All of them, in the order of their numbers."""
        places = {p.number: p.trial for p in (*self.best, *self.cells.values(), *self.front)}
        return [Numbered(number, places[number]) for number in sorted(places)]


def _goals(place: _Place) -> tuple[float, float, int]:
    return place.trial.step_s or 0.0, max(place.trial.memory_bytes), place.number


def _beats(one: tuple[float, float, int], two: tuple[float, float, int]) -> bool:
    return one[0] <= two[0] and one[1] <= two[1] and one < two
