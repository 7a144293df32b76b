"""Exact step times of many candidates that share a schedule.

A sweep along the tape of a schedule (`parplan.sim.step.tape`) adds and compares the same whole
picoseconds as the SimPy engine, so its results are equal to the engine's, not close to them. It
covers all that the engine covers but shared links, where times decide the order of messages
(`parplan.sim.fast.shared_link_evaluator`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.fast import numpy_sweep
from parplan.sim.fast.as_run import Swept, run_of
from parplan.sim.programs.instructions import Program
from parplan.sim.run import Run
from parplan.sim.step.self_check import check_steps
from parplan.sim.step.step_end import is_staggered
from parplan.sim.step.step_tables import SweepTables, sweep_tables
from parplan.sim.step.steps import Failing, Steps, steps_with_failures
from parplan.sim.step.sweep import compiled_loops, sweep
from parplan.sim.step.tape import Tape, lower
from parplan.sim.ticks import PS_PER_S, Ints, StageTicks, stage_ticks, to_seconds

Kernel = Literal["auto", "python", "numpy", "numba"]

LOOP_BELOW = 4
"""So many candidates are swept sooner by numpy calls for each action than one by one."""

CALLS_S, LANE_S = 1.7e-6, 3e-9
"""What an action costs with numpy, about: once, and for each candidate."""

LOAD_S = 3.0
"""What loading numba takes, about, when its machine code is not kept from before."""


def fast_step_s(tape: Tape, costs: Sequence[StageCosts], *, kernel: Kernel = "auto") -> float:
    """The step time of one candidate, in seconds."""
    return float(fast_many(tape, stage_ticks([costs]), kernel=kernel)[0])


def fast_many(tape: Tape, ticks: StageTicks, *, kernel: Kernel = "auto") -> npt.NDArray[np.float64]:
    """The step time of each candidate, in seconds, shape [candidates]."""
    return to_seconds(fast_many_ps(tape, ticks, kernel=kernel))


def fast_many_ps(
    tape: Tape,
    ticks: StageTicks,
    *,
    durations_ps: Ints | None = None,
    blocking_sends: bool = False,
    post_validation: bool = False,
    kernel: Kernel = "auto",
) -> Ints:
    """The step time of each candidate, in picoseconds, shape [candidates].

    `durations_ps`: of every action in the order of the lists, in place of what `ticks` says, shape
    [candidates, actions]. `blocking_sends`: a rank computes on only when its message has arrived.
    `post_validation`: as `parplan.sim.engine.engine.simulate` has it. `kernel`: what to sweep with;
    all give the same. What is found is checked (`parplan.sim.step.self_check.check_steps`). Raises
    `ParplanError` when the stages are not those of the tape, when a step could be longer than 64
    bits of picoseconds (53 days), or when the kernel is not installed.
    """
    count = ticks.num_candidates
    chosen = _choose(kernel, len(tape), count)
    lanes = 1
    if ticks.post_validation.any() and is_staggered(tape.lists, False):
        # Blocks of candidates do not say when ranks begin.
        chosen = "python" if chosen == "numpy" else chosen
    elif chosen == "numpy":
        lanes = min(numpy_sweep.LANES, count)
    elif chosen == "numba" and count > 1:
        lanes = compiled_loops(load=True).LANES  # type: ignore[union-attr]
    tables = sweep_tables(tape, ticks, durations_ps, lanes, post_validation)
    steps = _swept(tape, tables, blocking_sends, chosen)
    check_steps(tape, tables, steps)
    return steps


def _swept(tape: Tape, tables: SweepTables, blocking: bool, kernel: Kernel) -> Ints:
    """The step of each candidate, shape [candidates]."""
    compiled = kernel == "numba"
    if kernel == "numpy":
        return numpy_sweep.sweep_numpy(tape, tables, blocking)
    if compiled and tables.num_candidates > 1 and tables.lanes > 1:
        return _sweep_numba(tape, tables, blocking)
    entries = _entries(tape, tables, compiled)
    steps = [
        _sweep_one(tape, tables, entries, c, blocking, compiled).step_ps(tape, tables, c)
        for c in range(tables.num_candidates)
    ]
    return np.array(steps, dtype=np.int64)


def fast_run(
    schedule: Program,
    costs: Sequence[StageCosts],
    *,
    durations_ps: Sequence[int] | None = None,
    blocking_sends: bool = False,
    post_validation: bool = False,
    tape: Tape | None = None,
) -> Run:
    """The run of one candidate, equal to that of `parplan.sim.engine.engine.simulate`.

    `tape`: that of the schedule, where it is at hand.
    """
    tape = lower(schedule) if tape is None else tape
    ticks = stage_ticks([costs])
    own = None if durations_ps is None else np.array([durations_ps], dtype=np.int64)
    tables = sweep_tables(tape, ticks, own, 1, post_validation)
    entries = _entries(tape, tables, False)
    swept = _sweep_one(tape, tables, entries, 0, blocking_sends, False)
    send_end = np.asarray(swept.sent, dtype=np.int64)
    crossing = tape.link >= 0
    send_start = send_end.copy()
    send_start[tape.place[crossing]] -= ticks.send[0, tape.stage[crossing]]
    return run_of(tape, ticks, tables, swept, send_start)


def fast_steps(
    tape: Tape,
    costs: Sequence[StageCosts],
    num_steps: int,
    *,
    blocking_sends: bool = False,
    post_validation: bool = False,
    failing: Failing | None = None,
) -> Steps:
    """`num_steps` steps in a row, equal to those of `simulate_steps`, but without their runs."""
    if num_steps < 1:
        raise ParplanError(f"num_steps: must be at least 1, got {num_steps}")
    tables = sweep_tables(tape, stage_ticks([costs]), None, 1, post_validation)
    if failing is None:
        ends = _row_ps(tape, tables, num_steps, blocking_sends)
        return Steps(ends_s=tuple(end / PS_PER_S for end in ends), end_s=max(ends) / PS_PER_S)
    every, rest = failing.checkpoint_every, num_steps % failing.checkpoint_every
    longest = _row_ps(tape, tables, min(every, num_steps), blocking_sends)
    rows = {count: longest[:count] for count in {min(every, num_steps), rest} - {0}}
    return steps_with_failures(rows, num_steps, tape.num_ranks, failing)


def _row_ps(tape: Tape, tables: SweepTables, num_steps: int, blocking: bool) -> list[int]:
    """The ends of steps in a row."""
    entries = _entries(tape, tables, False)
    rank_free, link_free, ends = [0] * tape.num_ranks, [0] * tape.num_links, []
    for _ in range(num_steps):
        swept = _sweep_one(tape, tables, entries, 0, blocking, False, (rank_free, link_free))
        rank_free = swept.ends(tables, 0).tolist()
        ends.append(max(rank_free))
    return ends


def kernel_for(tapes: Iterable[tuple[int, int]]) -> Kernel:
    """The kernel that sweeps so many (actions, candidates), tape after tape, soonest."""
    numpy_s = sum(actions * (CALLS_S + LANE_S * count) for actions, count in tapes)
    return "auto" if compiled_loops(load=numpy_s > LOAD_S) is None else "numba"


def _choose(kernel: Kernel, actions: int, count: int) -> Kernel:
    if kernel == "numba" and compiled_loops(load=True) is None:
        raise ParplanError("kernel: numba is not installed (pip install 'parplan[fast]')")
    if kernel == "auto":
        kernel = kernel_for([(actions, count)])
    if kernel == "auto":
        kernel = "python" if count < LOOP_BELOW else "numpy"
    return kernel


def _entries(tape: Tape, tables: SweepTables, compiled: bool) -> Any:
    columns = (
        *(tape.place, tape.rank, tape.stage, tables.column),
        *(tape.slot_in, tape.slot_out, tape.link, tables.reduces),
    )
    return columns if compiled else tuple(a.tolist() for a in columns)


def _sweep_one(
    tape: Tape,
    tables: SweepTables,
    entries: Any,
    candidate: int,
    blocking: bool,
    compiled: bool,
    busy_until: tuple[Any, Any] | None = None,
) -> Swept:
    """`busy_until`: until when ranks and links are, both changed; not at all if None."""

    def costs(values: Ints) -> Any:
        own = values[candidate, :, 0]
        return own if compiled else own.tolist()

    def zeros(count: int) -> Any:
        return np.zeros(count, dtype=np.int64) if compiled else [0] * count

    loops = compiled_loops(load=True) if compiled else None
    rank_free, link_free = busy_until or (zeros(tape.num_ranks), zeros(tape.num_links))
    swept = Swept(zeros(len(tape)), zeros(len(tape)), rank_free, zeros(tape.num_ranks))
    reduce = (tables.each_total, tables.each_tail, tables.last_total, tables.last_tail)
    (loops.sweep if loops else sweep)(
        entries,
        costs(tables.duration),
        costs(tables.send),
        costs(tables.latency),
        tuple(costs(values) for values in reduce),
        blocking,
        zeros(tape.num_slots),
        link_free,
        swept.rank_free,
        swept.reduce_free,
        swept.start,
        swept.sent,
    )
    return swept


def _sweep_numba(tape: Tape, tables: SweepTables, blocking: bool) -> Ints:
    loops: Any = compiled_loops(load=True)
    free = np.zeros((tape.num_ranks, len(tables.duration), loops.LANES), dtype=np.int64)
    loops.sweep_blocks(
        _entries(tape, tables, True)[1:],
        (
            *(tables.duration, tables.send, tables.latency),
            *(tables.each_total, tables.each_tail, tables.last_total, tables.last_tail),
        ),
        (tape.num_ranks, tape.num_slots, tape.num_links),
        blocking,
        free,
    )
    by_candidate = free.reshape(tape.num_ranks, -1)[:, : tables.num_candidates]
    return np.asarray(tables.end.ends(by_candidate).max(axis=0))
