"""Pipeline replicas simulated side by side: one SimPy process for each rank of each replica.

What a rank does in its list is what `parplan.sim.engine.engine` lets it do, with durations of its
own. The replicas meet where they share links; what they do with their gradients follows from the
times of their backwards (`parplan.sim.engine.group_reduction`), as no action of a step waits for
it.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import simpy

from parplan.sim.costs import StageCosts
from parplan.sim.engine.links import Arrival, Links, OwnLinks, times
from parplan.sim.programs.instructions import OPS, Action, Schedule, rank_of_stages
from parplan.sim.programs.messages import deadlock
from parplan.sim.ticks import Ints, to_ps

Process = Generator[simpy.Event, Any, None]

MakeLinks = Callable[[simpy.Environment, int], Links]
"""The links of an environment, for so many actions in all. The rank at pipeline place p of replica
r (by its place among those that are simulated) is number r x pipeline ranks + p."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTimes:
    """Times of every replica's actions and messages, in picoseconds: [replicas, actions]."""

    start: Ints
    end: Ints
    send_start: Ints
    send_end: Ints


class _Work(NamedTuple):
    """An action of one stage: picoseconds on a rank that is not slowed, and its messages."""

    seconds: float
    first_seconds: float
    """Of the first that makes gradients of the weights in a step."""
    makes_gradient: bool
    forward: bool
    receives: bool
    to_stage: int
    to_rank: int
    """Pipeline rank; -1 if it makes no message."""
    send_ps: int
    latency_ps: int


def simulate_replicas(
    schedule: Schedule,
    costs: Sequence[StageCosts],
    slowdowns: Sequence[Sequence[float]],
    make_links: MakeLinks = OwnLinks,
) -> ReplicaTimes:
    """Simulate `schedule` once for each of `slowdowns`.

    slowdowns: by pipeline rank, how many times as long the computations of the replica take.
    """
    simulated = _Simulator(schedule, costs, slowdowns, make_links)
    simulated.run()
    shape = len(slowdowns), sum(map(len, schedule))
    columns = (simulated.start, simulated.end, simulated.links.start, simulated.links.end)
    start, end, send_start, send_end = (np.array(c, dtype=np.int64).reshape(shape) for c in columns)
    return ReplicaTimes(start=start, end=end, send_start=send_start, send_end=send_end)


def _works(costs: Sequence[StageCosts], rank_of: Mapping[int, int]) -> list[dict[str, _Work]]:
    return [
        {op: _work(stage, op, costs[stage], rank_of) for op in OPS} for stage in range(len(costs))
    ]


def _work(stage: int, op: str, cost: StageCosts, rank_of: Mapping[int, int]) -> _Work:
    from_stage, to_stage = (stage - 1, stage + 1) if op == "F" else (stage + 1, stage - 1)
    seconds, gradient = cost.action_s(op), op in "BW"
    return _Work(
        max(seconds, 0.0),
        max(seconds + cost.first_gradient_extra_s * gradient, 0.0),
        gradient,
        op == "F",
        op != "W" and from_stage in rank_of,
        to_stage,
        rank_of[to_stage] if op != "W" and to_stage in rank_of else -1,
        to_ps(cost.send_s),
        to_ps(cost.latency_s),
    )


class _Simulator:
    """The state of one simulation."""

    def __init__(
        self,
        schedule: Schedule,
        costs: Sequence[StageCosts],
        slowdowns: Sequence[Sequence[float]],
        make_links: MakeLinks,
    ) -> None:
        self.env = simpy.Environment()
        self.schedule, self.slowdowns, self.num_stages = schedule, slowdowns, len(costs)
        self.works = _works(costs, rank_of_stages(schedule))
        num_actions = len(slowdowns) * sum(map(len, schedule))
        self.start, self.end = times(num_actions), times(num_actions)
        self.links = make_links(self.env, num_actions)
        # Messages that only their sender, or only their receiver, has come to.
        self.arrivals: dict[tuple[int, int, bool, int], Any] = {}
        self.waiting: dict[tuple[int, int], Action] = {}

    def run(self) -> None:
        """Until all lists are done."""
        first, processes = 0, {}
        for replica, factors in enumerate(self.slowdowns):
            for rank, actions in enumerate(self.schedule):
                process = self.env.process(self._rank(replica, rank, factors[rank], first))
                processes[replica, rank] = process
                first += len(actions)
        try:
            self.env.run(until=self.env.all_of(processes.values()))
        except RuntimeError:
            blocked = [
                (rank, action)
                for (replica, rank), action in self.waiting.items()
                if replica == 0 and processes[replica, rank].is_alive
            ]
            raise deadlock(blocked, self.num_stages) from None

    def _durations(self, rank: int, factor: float) -> dict[tuple[int, str], tuple[int, int]]:
        """Picoseconds of a rank's actions by stage and op: any, and the first with gradients."""
        kinds = {(stage, op) for stage, op, _ in self.schedule[rank]}
        works = {kind: self.works[kind[0]][kind[1]] for kind in kinds}
        return {
            kind: (to_ps(work.seconds * factor), to_ps(work.first_seconds * factor))
            for kind, work in works.items()
        }

    def _rank(self, replica: int, rank: int, factor: float, first: int) -> Process:
        """A rank whose first action stands at place `first`."""
        env, arrivals, works, links = self.env, self.arrivals, self.works, self.links
        durations = self._durations(rank, factor)
        base = replica * len(self.schedule)
        created: set[int] = set()
        now = int(env.now)
        for place, (stage, op, micro_batch) in enumerate(self.schedule[rank], start=first):
            work = works[stage][op]
            if work.receives:
                key = replica, stage, work.forward, micro_batch
                arrival = arrivals.pop(key, None)
                if arrival is None:
                    arrival = arrivals[key] = Arrival(env)
                if arrival.callbacks is not None:  # It has not arrived.
                    self.waiting[replica, rank] = Action(stage, op, micro_batch)
                    now = yield arrival
            takes = durations[stage, op][work.makes_gradient and stage not in created]
            if work.makes_gradient:
                created.add(stage)
            self.start[place] = now
            yield simpy.Timeout(env, takes)
            self.end[place] = now = now + takes
            if work.to_rank >= 0:
                key = replica, work.to_stage, work.forward, micro_batch
                awaited = arrivals.pop(key, None)
                pair = base + rank, base + work.to_rank
                arrival = links.send(pair, place, now, work.send_ps, work.latency_ps, awaited)
                if awaited is None:
                    arrivals[key] = arrival
