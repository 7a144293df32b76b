"""The processes of the SimPy engine: one for each rank, over one or more steps in a row.

An action costs at most two events: its end, and the arrival of its message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from parplan.sim.costs import StageCosts
from parplan.sim.engine.barriers import Barriers
from parplan.sim.engine.links import Arrival, Process, make_links, times
from parplan.sim.engine.slowdown import Pace
from parplan.sim.engine.stage_work import StageAction, stage_work, works_of_micro_batches
from parplan.sim.event_table import NORM, REDUCE
from parplan.sim.programs.arrays import ActionArrays
from parplan.sim.programs.instructions import Action, Overlap, Program, last_gradient_index, parts
from parplan.sim.programs.messages import deadlock
from parplan.sim.step.data_parallel import Span, bucket_spans, finish_spans, reduce_spans
from parplan.sim.step.recording import StepRecord
from parplan.sim.step.shared_links import SharedLinks
from parplan.sim.step.step_end import check_copies, is_staggered, longest_ps
from parplan.sim.ticks import pair_ps, to_ps


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """Options of a simulation: the keywords of `parplan.sim.engine.engine.simulate`."""

    durations_ps: Sequence[int] | None
    blocking_sends: bool
    links: SharedLinks | None
    post_validation: bool
    compute_slowdown_during_messages: float


class Processes:
    """The state of `num_steps` steps in a row, from now on in `env`."""

    def __init__(
        self,
        env: simpy.Environment,
        program: Program,
        lists: ActionArrays,
        costs: Sequence[StageCosts],
        options: SimulationOptions,
        num_steps: int = 1,
    ) -> None:
        self.env, self.lists = env, lists
        # Communication is not in it: `action_arrays` has refused it.
        self.program: tuple[tuple[Action | Overlap, ...], ...] = program  # type: ignore[assignment]
        self.durations_ps, self.blocking = options.durations_ps, options.blocking_sends
        self.stages = [stage_work(cost) for cost in costs]
        self.works = works_of_micro_batches(lists, costs)
        self.norm_ps = max(to_ps(cost.norm_sync_s) for cost in costs)
        copies = lists.copies().tolist()
        self.own = [[stage for stage, on in copies if on == rank] for rank in range(len(program))]
        self.copies = np.bincount([stage for stage, _ in copies]).tolist()
        shared = [stage for stage, count in enumerate(self.copies) if count > 1]
        check_copies(shared, [self.stages[stage].reduce_each for stage in shared])
        by_software = any(cost.post_validation for cost in costs)
        self.staggered = by_software and is_staggered(lists, bool(shared))
        self.post_validation = options.post_validation or self.staggered
        # Messages that only their sender, or only their receiver, has come to.
        self.arrivals: dict[tuple[int, bool, int], Any] = {}
        self.waiting: dict[int, Action] = {}
        self.barriers = Barriers(env)
        self.reduce_free_ps = [0] * len(program)
        self.spans: list[list[Span]] = [[] for _ in range(num_steps)]
        self.ends_ps = [[0] * len(program) for _ in range(num_steps)]
        count = len(lists) * num_steps
        self.start, self.end = times(count), times(count)
        slowdown = options.compute_slowdown_during_messages
        self.pace = Pace(env, len(program), slowdown) if slowdown != 1.0 else None
        self.links = make_links(env, count, options.links, self.pace)
        self.ranks = [
            env.process(self._rank(rank, int(first))) for rank, first in enumerate(lists.first[:-1])
        ]

    @property
    def step_ends_ps(self) -> list[int]:
        """When the last rank is done with each step."""
        return [max(ends) for ends in self.ends_ps]

    def done(self) -> simpy.Event:
        """The end of all lists; optimizers and gathers may end later (`step_ends_ps`)."""
        return self.env.all_of(self.ranks)

    def run(self) -> None:
        """Until the end; raises `ParplanError` when the ranks wait for each other."""
        try:
            self.env.run(until=self.done())
        except RuntimeError:
            alive = [(r, a) for r, a in self.waiting.items() if self.ranks[r].is_alive]
            raise deadlock(alive, len(self.stages)) from None

    def abort(self) -> None:
        """Stop every rank where it is."""
        for rank in self.ranks:
            if rank.is_alive:
                rank.interrupt()

    def simulated(self, step: int) -> StepRecord:
        """The times of one of the steps."""
        own = slice(step * len(self.lists), (step + 1) * len(self.lists))
        end_ps = self.step_ends_ps[step]
        if self.staggered:
            start = np.array(self.start[own], dtype=np.int64)
            end_ps = longest_ps(np.array(self.ends_ps[step]), start, self.lists.first)
        return StepRecord(
            start=np.array(self.start[own]),
            end=np.array(self.end[own]),
            send_start=np.array(self.links.start[own]),
            send_end=np.array(self.links.end[own]),
            spans=self.spans[step],
            end_ps=end_ps,
            staggered=self.staggered,
        )

    def _rank(self, rank: int, first: int) -> Process:
        """The process of a rank whose first action stands at place `first`."""
        try:
            for step in range(len(self.ends_ps)):
                now = yield from self._list(rank, step, first + step * len(self.lists))
                end = yield from self._finish(rank, step, now)
                self.ends_ps[step][rank] = end
                if step + 1 < len(self.ends_ps):
                    yield simpy.Timeout(self.env, end - int(self.env.now))
        except simpy.Interrupt:
            return

    def _list(self, rank: int, step: int, first: int) -> Process:
        """Run the list of the rank once.

        first: place of its first action among all that the steps do. Returns when the list is done.
        """
        env, arrivals, starts, ends = self.env, self.arrivals, self.start, self.end
        works, send_message, pace = self.works, self.links.send, self.pace
        created: set[int] = set()
        durations, later = self.durations_ps, step * len(works)
        last_gradient = self._last_gradients(rank, first)
        now, place = int(env.now), first - 1
        for instruction in self.program[rank]:
            place += 1
            if isinstance(instruction, Overlap):
                now = yield from self._pair(rank, step, place, instruction, created)
                place += 1
                continue
            stage, op, micro_batch = instruction
            work = works[micro_batch][stage][op]
            duration, gradient, forward, receives, to_stage, pair, send, lag = work
            if later:
                micro_batch += later
            if receives:
                key = stage, forward, micro_batch
                arrival = arrivals.pop(key, None)
                if arrival is None:
                    arrival = arrivals[key] = Arrival(env)
                if arrival.callbacks is not None:  # It has not arrived.
                    self.waiting[rank] = Action(stage, op, micro_batch - later)
                    now = yield arrival
            if gradient and stage not in created:
                created.add(stage)
                duration = self.stages[stage].first_gradient[op]
            if durations is not None:
                duration = durations[place]
            start = starts[place] = now
            if pace is None:
                yield simpy.Timeout(env, duration)
                now = start + duration
            else:
                now = yield from pace.compute(rank, duration)
            ends[place] = now
            if gradient:
                self._reduce(rank, step, stage, start, now, last_gradient[stage] == place)
            if pair is not None:
                key = to_stage, forward, micro_batch
                awaited = arrivals.pop(key, None)
                arrival = send_message(pair, place, now, send, lag, awaited)
                if awaited is None:
                    arrivals[key] = arrival
                if self.blocking:
                    now = yield arrival
        return now

    def _last_gradients(self, rank: int, first: int) -> dict[int, int]:
        """For each stage of the rank the place of its last weight gradient."""
        actions: Sequence[Action] = self.program[rank]  # type: ignore[assignment]
        if len(self.lists.pairs):
            actions = [a for instruction in actions for a in parts(instruction)]
        return {stage: first + place for stage, place in last_gradient_index(actions).items()}

    def _duration(self, place: int, stage: int, op: str, usual: int, created: set[int]) -> int:
        """Duration of an action; `created`: stages whose gradients exist."""
        if op in "BW" and stage not in created:
            created.add(stage)
            usual = self.stages[stage].first_gradient[op]
        return usual if self.durations_ps is None else self.durations_ps[place]

    def _pair(
        self,
        rank: int,
        step: int,
        place: int,
        pair: Overlap,
        created: set[int],
    ) -> Process:
        """A forward and a backward together, the forward at `place`; returns when it is done."""
        works = [self.works[a.micro_batch][a.stage][a.op] for a in pair]
        durations = []
        for i, (action, work) in enumerate(zip(pair, works, strict=True)):
            yield from self._await(rank, step, action, work)
            usual = work.duration, created
            durations.append(self._duration(place + i, action.stage, action.op, *usual))
        share = self.stages[pair.forward.stage].overlap_share
        forward_ps, backward_ps = (np.array(duration) for duration in durations)
        start = now = int(self.env.now)
        duration = int(pair_ps(forward_ps, backward_ps, np.array(share)))
        if self.pace is None:
            yield simpy.Timeout(self.env, duration)
        else:
            yield from self.pace.compute(rank, duration)
        end = now = int(self.env.now)
        for i in range(2):
            self.start[place + i], self.end[place + i] = start, end
        if works[1].makes_gradient:
            # Not the last one of its stage: the backward of the pair's forward comes later.
            self._reduce(rank, step, pair.backward.stage, start, end, False)
        for i, (action, work) in enumerate(zip(pair, works, strict=True)):
            if work.pair is not None:
                key = work.to_stage, work.forward, action.micro_batch + step * len(self.works)
                awaited = self.arrivals.pop(key, None)
                message = work.pair, place + i, now, work.send, work.latency
                arrival = self.links.send(*message, awaited)
                if awaited is None:
                    self.arrivals[key] = arrival
                if self.blocking:
                    now = yield arrival
        return now

    def _await(self, rank: int, step: int, action: Action, work: StageAction) -> Process:
        """Until the message for `action` is there."""
        if work.receives:
            key = action.stage, work.forward, action.micro_batch + step * len(self.works)
            arrival = self.arrivals.pop(key, None)
            if arrival is None:
                arrival = self.arrivals[key] = Arrival(self.env)
            if arrival.callbacks is not None:
                self.waiting[rank] = action
                yield arrival

    def _reduce(
        self, rank: int, step: int, stage: int, start: int, end: int, is_last: bool
    ) -> None:
        """Reduce the gradients of a stage whose backward took from `start` to `end`."""
        work = self.stages[stage]
        if work.reduce == 0 or self.copies[stage] > 1 or not (is_last or work.reduce_each):
            return
        free = self.reduce_free_ps[rank]
        spans = bucket_spans(start, end, work.reduce, work.buckets, free)
        self.spans[step] += reduce_spans(rank, stage, spans)
        self.reduce_free_ps[rank] = self.spans[step][-1].end_ps

    def _finish(self, rank: int, step: int, now: int) -> Process:
        """Simulate what follows on the list (`parplan.sim.step.step_end`); return its end."""
        self.waiting.pop(rank, None)
        now = max(now, self.reduce_free_ps[rank])
        own = self.own[rank]
        for stage in own:
            if self.copies[stage] > 1:
                barrier = step, "reduce", stage
                begin = yield self.barriers.join(barrier, now, self.copies[stage])
                now = begin + self.stages[stage].reduce
                if now > begin:
                    self.spans[step].append(Span(rank, stage, REDUCE, begin, now))
        if self.norm_ps:
            now = yield from self._norm(rank, step, now, own)
        costs = [(s, self.stages[s].optimizer, self.stages[s].gather) for s in own]
        spans, end = finish_spans(rank, now, costs)
        self.spans[step] += spans
        return end

    def _norm(self, rank: int, step: int, now: int, own: list[int]) -> Process:
        """The norm of the gradients, which the rank has its part of `now`."""
        if not self.post_validation:
            begin = yield self.barriers.join((step, "norm", 0), now, len(self.program))
            now = begin + self.norm_ps
            if own:
                self.spans[step].append(Span(rank, own[0], NORM, begin, now))
            return now
        if rank > 0:
            now = yield self.barriers.join((step, "part", rank), now, 2)
        hop = self.stages[own[0]].latency if own else 0
        # Nobody comes for that of the last rank.
        self.barriers.join((step, "part", rank + 1), now + hop, 2)
        return now
