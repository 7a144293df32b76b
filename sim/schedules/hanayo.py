"""Waves: stages placed down and up the ranks, again and again, simulated greedily.

After Liu et al. 2023 (Hanayo, arXiv:2308.15762): a wave is one way down and up, two stages per
rank. The order is not the paper's action lists but ours: a simulation with forwards of a time unit
and backwards of two, in which backwards go first.
"""

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import Action, Schedule
from parplan.sim.schedules.placement import rank_of_stage

_TIME = {"F": 1, "B": 2}


def hanayo(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> Schedule:
    """`virtual_stages` / 2 waves, with at most twice as many micro-batches on their way as ranks.

    With as many micro-batches as ranks, the paper's case, that is no limit, and a rank holds no
    more activations than in 1F1B; with many, nearly twice as many. A rank runs the backward of the
    earliest micro-batch, else the forward of the earliest one and of its last stage. Raises
    `ParplanError` for an odd number of virtual stages.
    """
    if virtual_stages % 2:
        raise ParplanError(f"hanayo: virtual_stages {virtual_stages}; needs an even number")
    simulation = _Simulation(num_ranks, num_micro_batches, num_ranks * virtual_stages)
    return tuple(tuple(actions) for actions in simulation.actions)


class SteadyState(NamedTuple):
    """When a simulation is as it was before, but for later micro-batches."""

    entered: int
    """Micro-batches that are on their way or done by then."""
    period: int
    """Micro-batches that entered since it was so before."""


LONGEST_START = 64
"""Micro-batches per rank after which no steady state is looked for."""


def steady_state(num_ranks: int, virtual_stages: int) -> SteadyState | None:
    """The first repetition of a simulation with any number of micro-batches; None if none is found.

    What follows a state depends on nothing else, so that from then on it repeats itself as long as
    micro-batches enter.
    """
    many = LONGEST_START * num_ranks
    return _Simulation(num_ranks, many, num_ranks * virtual_stages, until_steady=True).steady


class _Simulation:
    """One simulation in time: what each rank can run, until when it is busy, what it has run."""

    def __init__(
        self,
        num_ranks: int,
        num_micro_batches: int,
        num_stages: int,
        *,
        until_steady: bool = False,
    ) -> None:
        """`until_steady`: end once a state is as it was before, at `steady`."""
        self.steady: SteadyState | None = None
        seen: dict[object, int] = {}
        last = 0
        self.last = num_stages - 1
        self.num_micro_batches = num_micro_batches
        self.rank_of = [rank_of_stage("v", num_ranks, s) for s in range(num_stages)]
        self.actions: list[list[Action]] = [[] for _ in range(num_ranks)]
        self.ready: list[list[tuple[bool, int, int, Action]]] = [[] for _ in range(num_ranks)]
        self.busy = [False] * num_ranks
        self.entered = 0
        self.ends: list[tuple[int, int, Action]] = []
        for _ in range(min(2 * num_ranks, num_micro_batches)):
            self._enter()
        self._start(range(num_ranks), 0)
        while self.ends and self.steady is None:
            now, freed = self.ends[0][0], []
            while self.ends and self.ends[0][0] == now:
                _, rank, action = heapq.heappop(self.ends)
                self.busy[rank] = False
                freed += [rank, self._done(action)]
            self._start(sorted(set(freed)), now)
            if until_steady and last < self.entered < num_micro_batches:
                last = self.entered
                before = seen.setdefault(self._state(now), last)
                if before < last:
                    self.steady = SteadyState(last, last - before)

    def _state(self, now: int) -> object:
        """What is to come depends on it, by micro-batches and times from here."""

        def ahead(action: Action) -> tuple[int, str, int]:
            return action.stage, action.op, self.entered - action.micro_batch

        ready = [frozenset(ahead(entry[-1]) for entry in heap) for heap in self.ready]
        return tuple(ready), frozenset((end - now, ahead(action)) for end, _, action in self.ends)

    def _enter(self) -> None:
        if self.entered < self.num_micro_batches:
            self._make_ready(Action(0, "F", self.entered))
            self.entered += 1

    def _make_ready(self, action: Action) -> int:
        rank = self.rank_of[action.stage]
        key = (action.op == "F", action.micro_batch, -action.stage, action)
        heapq.heappush(self.ready[rank], key)
        return rank

    def _done(self, action: Action) -> int:
        """The rank that gets something to run from this action, or may."""
        stage, op, micro_batch = action
        if op == "F":
            if stage == self.last:
                return self._make_ready(Action(stage, "B", micro_batch))
            return self._make_ready(Action(stage + 1, "F", micro_batch))
        if stage > 0:
            return self._make_ready(Action(stage - 1, "B", micro_batch))
        self._enter()
        return self.rank_of[0]

    def _start(self, ranks: Iterable[int], now: int) -> None:
        for rank in ranks:
            if not self.busy[rank] and self.ready[rank]:
                action = heapq.heappop(self.ready[rank])[3]
                self.busy[rank] = True
                self.actions[rank].append(action)
                heapq.heappush(self.ends, (now + _TIME[action.op], rank, action))
