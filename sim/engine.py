"""The simulator: plays a schedule's instruction lists as a SimPy discrete-event simulation.

One process per pipeline rank runs its list in order on a compute stream. A message to a
neighbouring stage on another rank is sent as soon as it is computed, beside the computation; each
directed pair of ranks is a link that carries one message at a time (first come, first served).
Gradients are reduced on a data-parallel stream of the rank, in buckets, each as soon as its share
of the backward is done. Time is counted in integer picoseconds, so that equal instants are equal.

An action costs at most two events: its end, and the arrival of its message.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import simpy

from parplan.hardware.errors import ParplanError
from parplan.sim.action_arrays import action_arrays, check_arrays
from parplan.sim.costs import StageCosts
from parplan.sim.data_parallel import Span, bucket_spans, finish_spans, reduce_spans
from parplan.sim.instructions import (
    OPS,
    Action,
    RankActions,
    Schedule,
    last_gradient_index,
    rank_of_stages,
)
from parplan.sim.links import Arrival, make_links, times
from parplan.sim.messages import deadlock
from parplan.sim.recording import Played, as_run
from parplan.sim.run import Run
from parplan.sim.shared_links import Pair, SharedLinks
from parplan.sim.ticks import PS_PER_S, to_ps

__all__ = ["PS_PER_S", "simulate", "to_ps"]

Process = Generator[simpy.Event, Any, None]


def simulate(
    schedule: Schedule,
    costs: Sequence[StageCosts],
    *,
    durations_ps: Sequence[int] | None = None,
    blocking_sends: bool = False,
    links: SharedLinks | None = None,
) -> Run:
    """Play `schedule` with the costs of each stage and return the predicted run.

    `durations_ps`: of every action, the lists of the ranks one after the other, in place of what
    `costs` says. `blocking_sends`: a rank computes on only when its message has arrived.
    `links`: those that several pairs of ranks share.
    Raises `ParplanError` when the schedule is not complete for `len(costs)` stages, or when its
    ranks wait for each other (each blocked rank is named with what it waits for).
    """
    if not schedule or not costs:
        raise ParplanError("a schedule needs at least one rank and one stage")
    lists = action_arrays(schedule)
    check_arrays(lists, len(costs))
    if durations_ps is not None and len(durations_ps) != len(lists):
        raise ParplanError(f"durations_ps: {len(durations_ps)} durations for {len(lists)} actions")
    engine = _Engine(schedule, costs, durations_ps, blocking_sends, links)
    return as_run(lists, engine.run())


def simulate_steps(
    schedule: Schedule,
    costs: Sequence[StageCosts],
    num_steps: int,
    *,
    blocking_sends: bool = False,
    links: SharedLinks | None = None,
) -> list[float]:
    """When each of `num_steps` steps in a row is done, in seconds.

    A rank begins its next step when it has finished its own part of the one before, whatever the
    others do. Raises `ParplanError` as `simulate` does.
    """
    if num_steps < 1:
        raise ParplanError(f"num_steps: must be at least 1, got {num_steps}")
    lists = action_arrays(schedule)
    check_arrays(lists, len(costs))
    repeated = tuple(
        tuple(
            Action(stage, op, step * lists.num_micro_batches + micro_batch)
            for step in range(num_steps)
            for stage, op, micro_batch in actions
        )
        for actions in schedule
    )
    engine = _Engine(repeated, costs, None, blocking_sends, links, num_steps)
    engine.run()
    return [end / PS_PER_S for end in engine.step_ends_ps]


class _Stage(NamedTuple):
    """What a stage does beside its actions, in picoseconds."""

    first_gradient: dict[str, int]
    """Durations of the first B or W of the step."""
    reduce: int
    buckets: int
    reduce_each: bool
    optimizer: int
    gather: int


class _Work(NamedTuple):
    """What an action of one stage is: times in picoseconds, and its messages."""

    duration: int
    makes_gradient: bool
    """Of the weights."""
    forward: bool
    receives: bool
    to_stage: int
    pair: Pair | None
    """The ranks that its message goes from and to; None if it makes none."""
    send: int
    latency: int


def _stage(cost: StageCosts) -> _Stage:
    extra = cost.first_gradient_extra_s
    return _Stage(
        {op: to_ps(max(cost.action_s(op) + extra, 0.0)) for op in "BW"},
        to_ps(cost.reduce_s),
        cost.reduce_buckets,
        cost.reduce_each_micro_batch,
        to_ps(cost.optimizer_s),
        to_ps(cost.gather_s),
    )


def _works(costs: Sequence[StageCosts], rank_of: Mapping[int, int]) -> list[dict[str, _Work]]:
    """By stage and op."""
    return [
        {op: _work(stage, op, costs[stage], rank_of) for op in OPS} for stage in range(len(costs))
    ]


def _work(stage: int, op: str, cost: StageCosts, rank_of: Mapping[int, int]) -> _Work:
    from_stage, to_stage = (stage - 1, stage + 1) if op == "F" else (stage + 1, stage - 1)
    has_messages = op != "W"
    makes = has_messages and to_stage in rank_of
    return _Work(
        to_ps(max(cost.action_s(op), 0.0)),
        op in "BW",
        op == "F",
        has_messages and from_stage in rank_of,
        to_stage,
        (rank_of[stage], rank_of[to_stage]) if makes else None,
        to_ps(cost.send_s),
        to_ps(cost.latency_s),
    )


class _Engine:
    """The state of one simulation."""

    def __init__(
        self,
        schedule: Schedule,
        costs: Sequence[StageCosts],
        durations_ps: Sequence[int] | None,
        blocking: bool,
        links: SharedLinks | None,
        num_steps: int = 1,
    ) -> None:
        self.env = simpy.Environment()
        self.schedule = schedule
        self.durations_ps = durations_ps
        self.blocking = blocking
        self.stages = [_stage(cost) for cost in costs]
        self.works = _works(costs, rank_of_stages(schedule))
        # Messages that only their sender, or only their receiver, has come to.
        self.arrivals: dict[tuple[int, bool, int], Any] = {}
        self.waiting: dict[int, Action] = {}
        self.reduce_free_ps = [0] * len(schedule)
        self.spans: list[Span] = []
        self.step_ends_ps = [0] * num_steps
        num_actions = sum(map(len, schedule))
        self.start, self.end = times(num_actions), times(num_actions)
        self.links = make_links(self.env, num_actions, links)

    def run(self) -> Played:
        first, ranks = 0, []
        for rank, actions in enumerate(self.schedule):
            ranks.append(self.env.process(self._rank(rank, first)))
            first += len(actions)
        try:
            self.env.run(until=self.env.all_of(ranks))
        except RuntimeError:
            blocked = [(r, action) for r, action in self.waiting.items() if ranks[r].is_alive]
            raise deadlock(blocked, len(self.stages)) from None
        return Played(
            start=np.array(self.start),
            end=np.array(self.end),
            send_start=np.array(self.links.start),
            send_end=np.array(self.links.end),
            spans=self.spans,
            end_ps=self.step_ends_ps[-1],
        )

    def _rank(self, rank: int, first: int) -> Process:
        """The process of a rank whose first action stands at place `first`."""
        if len(self.step_ends_ps) == 1:
            return self._step(rank, 0, first, self.schedule[rank])
        return self._steps(rank, first)

    def _steps(self, rank: int, first: int) -> Process:
        actions = self.schedule[rank]
        size = len(actions) // len(self.step_ends_ps)
        for step in range(len(self.step_ends_ps)):
            begin = step * size
            yield from self._step(rank, step, first + begin, actions[begin : begin + size])

    def _step(self, rank: int, step: int, first: int, actions: RankActions) -> Process:
        env, durations, arrivals, works = self.env, self.durations_ps, self.arrivals, self.works
        starts, ends, send_message = self.start, self.end, self.links.send
        last_gradient = last_gradient_index(actions)
        created: set[int] = set()
        now = int(env.now)
        for place, (stage, op, micro_batch) in enumerate(actions, start=first):
            duration, gradient, forward, receives, to_stage, pair, send, lag = works[stage][op]
            if receives:
                key = stage, forward, micro_batch
                arrival = arrivals.pop(key, None)
                if arrival is None:
                    arrival = arrivals[key] = Arrival(env)
                if arrival.callbacks is not None:  # It has not arrived.
                    self.waiting[rank] = Action(stage, op, micro_batch)
                    now = yield arrival
            if gradient and stage not in created:
                created.add(stage)
                duration = self.stages[stage].first_gradient[op]
            if durations is not None:
                duration = durations[place]
            start = starts[place] = now
            yield simpy.Timeout(env, duration)
            ends[place] = now = start + duration
            if gradient:
                self._reduce(rank, stage, start, now, last_gradient[stage] == place - first)
            if pair is not None:
                key = to_stage, forward, micro_batch
                awaited = arrivals.pop(key, None)
                arrival = send_message(pair, place, now, send, lag, awaited)
                if awaited is None:
                    arrivals[key] = arrival
                if self.blocking:
                    now = yield arrival
        end = self._finish(rank, now, sorted(last_gradient))
        self.step_ends_ps[step] = max(self.step_ends_ps[step], end)
        if step + 1 < len(self.step_ends_ps):
            yield simpy.Timeout(env, end - now)

    def _reduce(self, rank: int, stage: int, start: int, end: int, is_last: bool) -> None:
        """Reduce the gradients of a stage whose backward took from `start` to `end`."""
        ticks = self.stages[stage]
        if ticks.reduce == 0 or not (is_last or ticks.reduce_each):
            return
        free = self.reduce_free_ps[rank]
        spans = bucket_spans(start, end, ticks.reduce, ticks.buckets, free)
        self.spans += reduce_spans(rank, stage, spans)
        self.reduce_free_ps[rank] = self.spans[-1].end_ps

    def _finish(self, rank: int, now: int, stages: Sequence[int]) -> int:
        """Optimizer and parameter gather of the rank, after its last gradient is reduced."""
        now = max(now, self.reduce_free_ps[rank])
        costs = [(s, self.stages[s].optimizer, self.stages[s].gather) for s in stages]
        spans, end = finish_spans(rank, now, costs)
        self.spans += spans
        return end
