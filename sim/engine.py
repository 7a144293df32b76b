"""The simulator: plays a schedule's instruction lists as a SimPy discrete-event simulation.

One process per pipeline rank runs its list in order on a compute stream. A message to a
neighbouring stage on another rank is sent as soon as it is computed, beside the computation; each
directed pair of ranks is a link that carries one message at a time (first come, first served).
Gradients are reduced on a data-parallel stream of the rank, in buckets, each as soon as its share
of the backward is done. Time is counted in integer picoseconds, so that equal instants are equal.
"""

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import simpy

from parplan.hardware.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.instructions import Action, Schedule, check_complete, last_gradient_index
from parplan.sim.run import Event, Run

PS_PER_S = 10**12

Process = Generator[simpy.Event, Any, None]


class Message(NamedTuple):
    """What one stage makes and another waits for: activations (F) or their gradients (B)."""

    to_stage: int
    kind: str
    micro_batch: int


def to_ps(seconds: float) -> int:
    """Seconds as whole picoseconds."""
    return round(seconds * PS_PER_S)


def simulate(schedule: Schedule, costs: Sequence[StageCosts]) -> Run:
    """Play `schedule` with the costs of each stage and return the predicted run.

    Raises `ParplanError` when the schedule is not complete for `len(costs)` stages, or when its
    ranks wait for each other (each blocked rank is named with what it waits for).
    """
    if not schedule or not costs:
        raise ParplanError("a schedule needs at least one rank and one stage")
    micro_batches = 1 + max((a.micro_batch for actions in schedule for a in actions), default=-1)
    check_complete(schedule, len(costs), micro_batches)
    engine = _Engine(schedule, costs)
    return engine.run()


class _Engine:
    """The state of one simulation."""

    def __init__(self, schedule: Schedule, costs: Sequence[StageCosts]) -> None:
        self.env = simpy.Environment()
        self.schedule = schedule
        self.costs = costs
        self.rank_of = {a.stage: r for r, actions in enumerate(schedule) for a in actions}
        self.arrivals: dict[Message, simpy.Event] = {}
        self.link_free_ps: dict[tuple[int, int], int] = {}
        self.reduce_free_ps = [0] * len(schedule)
        self.waiting: dict[int, tuple[Action, Message]] = {}
        self.events: list[Event] = []
        self.end_ps = 0

    @property
    def now(self) -> int:
        return int(self.env.now)

    def run(self) -> Run:
        ranks = [self.env.process(self._rank(rank)) for rank in range(len(self.schedule))]
        try:
            self.env.run(until=self.env.all_of(ranks))
        except RuntimeError:
            raise ParplanError(self._deadlock()) from None
        self.events.sort(key=lambda e: (e.rank, e.start_s, e.end_s, e.stream))
        return Run(step_s=self.end_ps / PS_PER_S, events=tuple(self.events))

    def _deadlock(self) -> str:
        blocked = [
            f"rank {rank} at {action} waits for {message.kind} of micro-batch "
            f"{message.micro_batch} for stage {message.to_stage}"
            for rank, (action, message) in sorted(self.waiting.items())
        ]
        return f"the schedule deadlocks: {'; '.join(blocked)}"

    def _rank(self, rank: int) -> Process:
        actions = self.schedule[rank]
        last_gradient = last_gradient_index(actions)
        created: set[int] = set()
        for index, action in enumerate(actions):
            message = self._needs(action)
            if message is not None:
                self.waiting[rank] = (action, message)
                yield self._arrival(message)
                del self.waiting[rank]
            start = self.now
            yield self.env.timeout(self._duration_ps(action, created))
            self._record(rank, "compute", str(action), start, self.now)
            self._send(rank, action)
            if action.op in "BW":
                cost = self.costs[action.stage]
                if cost.reduce_each_micro_batch or last_gradient[action.stage] == index:
                    self._reduce(rank, action.stage, start)
        self._finish(rank, sorted(last_gradient))

    def _duration_ps(self, action: Action, created: set[int]) -> int:
        cost = self.costs[action.stage]
        seconds = cost.action_s(action.op)
        if action.op in "BW" and action.stage not in created:
            created.add(action.stage)
            seconds += cost.first_gradient_extra_s
        return to_ps(max(seconds, 0.0))

    def _needs(self, action: Action) -> Message | None:
        stage, op, micro_batch = action
        if op == "F" and stage > 0:
            return Message(stage, "F", micro_batch)
        if op in "BI" and stage < len(self.costs) - 1:
            return Message(stage, "B", micro_batch)
        return None

    def _makes(self, action: Action) -> Message | None:
        stage, op, micro_batch = action
        if op == "F" and stage < len(self.costs) - 1:
            return Message(stage + 1, "F", micro_batch)
        if op in "BI" and stage > 0:
            return Message(stage - 1, "B", micro_batch)
        return None

    def _arrival(self, message: Message) -> simpy.Event:
        return self.arrivals.setdefault(message, self.env.event())

    def _send(self, rank: int, action: Action) -> None:
        message = self._makes(action)
        if message is None:
            return
        arrival = self._arrival(message)
        to_rank = self.rank_of[message.to_stage]
        if to_rank == rank:
            arrival.succeed()
            return
        cost = self.costs[action.stage]
        start = max(self.now, self.link_free_ps.get((rank, to_rank), 0))
        sent = start + to_ps(cost.send_s)
        self.link_free_ps[rank, to_rank] = sent
        if sent > start:
            self._record(rank, "send", f"{action}>{message.to_stage}", start, sent)
        self.env.process(self._arrive(arrival, sent + to_ps(cost.latency_s) - self.now))

    def _arrive(self, arrival: simpy.Event, delay_ps: int) -> Process:
        yield self.env.timeout(delay_ps)
        arrival.succeed()

    def _reduce(self, rank: int, stage: int, backward_start: int) -> None:
        """Reduce the gradients of a stage whose backward began at `backward_start` and ends now."""
        cost = self.costs[stage]
        total, buckets = to_ps(cost.reduce_s), cost.reduce_buckets
        if total == 0:
            return
        backward = self.now - backward_start
        for i in range(buckets):
            ready = backward_start + backward * (i + 1) // buckets
            start = max(ready, self.reduce_free_ps[rank])
            end = start + total * (i + 1) // buckets - total * i // buckets
            self._record(rank, "data-parallel", f"reduce {stage}", start, end)
            self.reduce_free_ps[rank] = end

    def _finish(self, rank: int, stages: Sequence[int]) -> None:
        """Optimizer and parameter gather of the rank, after its last gradient is reduced."""
        now = max(self.now, self.reduce_free_ps[rank])
        for stage in stages:
            end = now + to_ps(self.costs[stage].optimizer_s)
            if end > now:
                self._record(rank, "compute", f"optimizer {stage}", now, end)
            now = end
        for stage in stages:
            end = now + to_ps(self.costs[stage].gather_s)
            if end > now:
                self._record(rank, "data-parallel", f"gather {stage}", now, end)
            now = end
        self.end_ps = max(self.end_ps, now)

    def _record(self, rank: int, stream: str, name: str, start: int, end: int) -> None:
        self.events.append(Event(rank, stream, name, start / PS_PER_S, end / PS_PER_S))
