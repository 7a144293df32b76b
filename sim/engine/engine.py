"""Discrete-event simulation of instruction lists with SimPy.

One process per pipeline rank runs its list in order on a compute stream. A message to a
neighbouring stage on another rank is sent as soon as it is computed, beside the computation; each
directed pair of ranks is a link that carries one message at a time (first come, first served).
Gradients are reduced on a data-parallel stream of the rank, in buckets, each as soon as its share
of the backward is done. Time is counted in integer picoseconds, so that equal instants are equal.

A pair of a forward and a backward that overlap starts when the inputs of both are there and takes
`ticks.pair_ps`; at its end the result of the forward is sent, then that of the backward. A stage
may have copies on several ranks, each for micro-batches of its own (DualPipe). How a step ends:
`parplan.sim.step.step_end`. The processes: `parplan.sim.engine.rank_processes`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import simpy

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.links import Process, call_after
from parplan.sim.engine.rank_processes import Processes, SimulationOptions
from parplan.sim.programs.arrays import ActionArrays, action_arrays, check_arrays
from parplan.sim.programs.instructions import Program
from parplan.sim.run import Run
from parplan.sim.step.recording import as_run
from parplan.sim.step.self_check import check_simulated
from parplan.sim.step.shared_links import SharedLinks, slow_rate
from parplan.sim.step.steps import Failing, Failure, Steps
from parplan.sim.step.tape import lower_arrays
from parplan.sim.ticks import PS_PER_S, check_span, to_ps

__all__ = ["PS_PER_S", "simulate", "simulate_steps", "to_ps"]

LAST_OF_ALL = sys.maxsize
"""The priority of failures at their instant: behind every link."""


def simulate(
    schedule: Program,
    costs: Sequence[StageCosts],
    *,
    durations_ps: Sequence[int] | None = None,
    blocking_sends: bool = False,
    links: SharedLinks | None = None,
    post_validation: bool = False,
    compute_slowdown_during_messages: float = 1.0,
) -> Run:
    """Simulate `schedule` with the costs of each stage and return the predicted run.

    `durations_ps`: of every action, the lists of the ranks one after the other, in place of what
    `costs` says. `blocking_sends`: a rank computes on only when its message has arrived.
    `links`: those that several pairs of ranks share. `post_validation`: the optimizer does not wait
    for the norm of all gradients (`parplan.sim.step.step_end`). `compute_slowdown_during_messages`:
    how many times longer computations take while their rank sends or receives
    (`parplan.sim.engine.slowdown`); not together with `links`. Raises `ParplanError` when the
    schedule is not complete for `len(costs)` stages or holds communication, or when its ranks wait
    for each other (each blocked rank is named with what it waits for).
    """
    lists = _checked(schedule, costs, links, compute_slowdown_during_messages)
    if durations_ps is not None and len(durations_ps) != len(lists):
        raise ParplanError(f"durations_ps: {len(durations_ps)} durations for {len(lists)} actions")
    options = SimulationOptions(
        durations_ps=durations_ps,
        blocking_sends=blocking_sends,
        links=links,
        post_validation=post_validation,
        compute_slowdown_during_messages=compute_slowdown_during_messages,
    )
    processes = Processes(simpy.Environment(), schedule, lists, costs, options)
    processes.run()
    simulated = processes.simulated(0)
    check_simulated(lists, simulated)
    return as_run(lists, simulated)


def simulate_steps(
    schedule: Program,
    costs: Sequence[StageCosts],
    num_steps: int,
    *,
    blocking_sends: bool = False,
    links: SharedLinks | None = None,
    post_validation: bool = False,
    compute_slowdown_during_messages: float = 1.0,
    failing: Failing | None = None,
) -> Steps:
    """Simulate `num_steps` steps in a row.

    A rank begins its next step when it has finished its own part of the one before, whatever the
    others do; only before a checkpoint all wait. Messages that are ready for a shared link at the
    same instant go by step first. `failing`: which ranks fail when, and the checkpoints. Else as
    `simulate`. Raises `ParplanError` as `simulate` does.
    """
    if num_steps < 1:
        raise ParplanError(f"num_steps: must be at least 1, got {num_steps}")
    lists = _checked(schedule, costs, links, compute_slowdown_during_messages)
    options = SimulationOptions(
        durations_ps=None,
        blocking_sends=blocking_sends,
        links=links,
        post_validation=post_validation,
        compute_slowdown_during_messages=compute_slowdown_during_messages,
    )
    if failing is not None:
        lower_arrays(lists)  # Ranks that wait for each other would wait for the next failure.
        return _Training(schedule, lists, costs, options, num_steps, failing).run()
    processes = Processes(simpy.Environment(), schedule, lists, costs, options, num_steps)
    processes.run()
    ends_ps = processes.step_ends_ps
    runs = _runs(lists, processes, 0)
    return _steps(ends_ps, max(ends_ps), runs, [])


def _checked(
    schedule: Program, costs: Sequence[StageCosts], links: SharedLinks | None, slowdown: float
) -> ActionArrays:
    if not schedule or not costs:
        raise ParplanError("a schedule needs at least one rank and one stage")
    slow_rate(slowdown)
    if links is not None and slowdown != 1.0:
        raise ParplanError(
            f"compute_slowdown_during_messages: {slowdown} with shared links; only one of them "
            "can be simulated"
        )
    lists = action_arrays(schedule)
    check_arrays(lists, len(costs))
    check_span(costs, len(lists))
    return lists


def _runs(lists: ActionArrays, processes: Processes, begin_ps: int) -> list[Run]:
    """The run of every step of a row that began at `begin_ps`."""
    runs = []
    for step, end_ps in enumerate(processes.step_ends_ps):
        simulated = processes.simulated(step)
        alone = replace(simulated, end_ps=end_ps - begin_ps, staggered=False)
        runs.append(as_run(lists, alone))
        begin_ps = end_ps
    return runs


def _steps(
    ends_ps: Sequence[int], end_ps: int, runs: Sequence[Run], failures: Sequence[Failure]
) -> Steps:
    return Steps(
        ends_s=tuple(end / PS_PER_S for end in ends_ps),
        end_s=end_ps / PS_PER_S,
        failures=tuple(failures),
        runs=tuple(runs),
    )


class _Training:
    """Steps with failures: a process from checkpoint to checkpoint, and one that fails ranks."""

    def __init__(
        self,
        schedule: Program,
        lists: ActionArrays,
        costs: Sequence[StageCosts],
        options: SimulationOptions,
        num_steps: int,
        failing: Failing,
    ) -> None:
        self.env = simpy.Environment()
        self.given = schedule, lists, costs, options
        self.num_steps, self.failing = num_steps, failing
        self.restart_ps = to_ps(failing.costs.restart_s)
        self.checkpoint_ps = to_ps(failing.costs.checkpoint_s)
        self.moments = failing.moments_ps(lists.num_ranks)
        self.ends_ps: list[int] = []
        self.runs: list[Run] = []
        self.failures: list[Failure] = []

    def run(self) -> Steps:
        training = self.env.process(self._training())
        self._fail_next(training)
        self.env.run(until=training)
        return _steps(self.ends_ps, int(self.env.now), self.runs, self.failures)

    def _fail_next(self, training: simpy.Process) -> None:
        moment = next(self.moments, None)
        if moment is not None and training.is_alive:
            time, rank = moment

            def fail() -> None:
                if training.is_alive:
                    training.interrupt(rank)
                    self._fail_next(training)

            call_after(self.env, time - int(self.env.now), LAST_OF_ALL, fail)

    def _training(self) -> Process:
        done = True
        while len(self.ends_ps) < self.num_steps:
            try:
                if not done:
                    yield simpy.Timeout(self.env, self.restart_ps)
                done = yield from self._to_checkpoint()
            except simpy.Interrupt as failure:
                time_s = int(self.env.now) / PS_PER_S
                self.failures.append(Failure(time_s, cast(int, failure.cause), len(self.ends_ps)))
                done = False

    def _to_checkpoint(self) -> Process:
        env, begin = self.env, int(self.env.now)
        count = min(self.failing.checkpoint_every, self.num_steps - len(self.ends_ps))
        processes = Processes(env, *self.given, count)
        try:
            yield processes.done()
            end = max(processes.step_ends_ps)
            yield simpy.Timeout(env, end + self.checkpoint_ps - int(env.now))
        except simpy.Interrupt:
            processes.abort()
            raise
        self.runs += _runs(self.given[1], processes, begin)
        self.ends_ps += processes.step_ends_ps
        return True
