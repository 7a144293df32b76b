"""Invariants of every simulated step, checked on each one.

A mistake of a simulator does not pass for a prediction. Costs a few operations on arrays, far less
than simulating.
"""

import numpy as np

from parplan.sim.programs.arrays import ActionArrays, B, F, I
from parplan.sim.step.recording import StepRecord
from parplan.sim.step.step_tables import SweepTables
from parplan.sim.step.tape import Tape
from parplan.sim.ticks import MOST_PS, Ints

CHECKED_FROM = 4
"""Fewer candidates are not a batch: the check would take a third as long as the sweep."""

CHECKED = 256
"""Candidates of a batch whose steps are held against a bound; of more, so many and the fastest."""

SPREAD = 2_654_435_761
"""A prime: multiples of it are spread evenly over the candidates, and over lanes of blocks."""


def check_simulated(lists: ActionArrays, simulated: StepRecord) -> None:
    """Check that time goes forwards on each rank and along each dependency.

    Also that the step is not over before its last action and communication are. Raises
    `AssertionError` otherwise.
    """
    start, end = simulated.start, simulated.end
    _demand((start >= 0).all() and (end >= start).all(), "an action ends before it begins")
    rank = lists.rank()
    # Pairs that overlap have equal times.
    follows = (start[1:] >= end[:-1]) | ((start[1:] == start[:-1]) & (end[1:] == end[:-1]))
    _demand(follows[rank[1:] == rank[:-1]].all(), "a rank does two things at once")
    begin = np.zeros(len(lists.first) - 1, dtype=np.int64)
    if simulated.staggered:
        begin[:] = np.append(start, 0)[lists.first[:-1]]
    last = [int((end - begin[rank]).max())]
    last += [span.end_ps - int(begin[span.rank]) for span in simulated.spans]
    _demand(simulated.end_ps >= max(last), "the step is over before its last event")
    _check_dependencies(lists, start, end)


def check_steps(tape: Tape, tables: SweepTables, steps: Ints) -> None:
    """Check that step times are possible.

    Raises `AssertionError` where the step of a candidate, in picoseconds, is not a time, or is
    shorter than what one of its ranks has to do. `steps`: shape [candidates], as a sweep of
    `tables` along `tape` found them.
    """
    if len(steps) < CHECKED_FROM:
        return
    _demand(steps.min() >= 0 and steps.max() <= MOST_PS, "the step of a candidate is not a time")
    chosen = np.arange(len(steps))
    if len(steps) > CHECKED:
        chosen = np.append(chosen[:CHECKED] * SPREAD % len(steps), steps.argmin())
    columns = tables.duration.shape[1]
    counts = np.bincount(tape.rank * columns + tables.column, minlength=tape.num_ranks * columns)
    used = np.flatnonzero(counts)
    rank, column = np.divmod(used, columns)
    block, lane = np.divmod(chosen, tables.lanes)
    each = tables.duration[block[:, None], column, lane[:, None]] * counts[used]
    busy = np.add.reduceat(each, np.flatnonzero(np.diff(rank, prepend=-1)), axis=1).max(axis=1)
    _demand((steps[chosen] >= busy).all(), "a step is shorter than the work of a rank")


def _check_dependencies(lists: ActionArrays, start: Ints, end: Ints) -> None:
    shape = lists.num_stages, lists.num_micro_batches
    forward, backward = lists.op == F, (lists.op == B) | (lists.op == I)
    begins, ends = [], []
    for chosen in (forward, backward):
        place = lists.stage[chosen], lists.micro_batch[chosen]
        # Complete lists have one of each stage and micro-batch.
        begin, over = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        begin[place], over[place] = start[chosen], end[chosen]
        begins.append(begin)
        ends.append(over)
    _demand((begins[0][1:] >= ends[0][:-1]).all(), "a forward begins before its input is there")
    _demand((begins[1][:-1] >= ends[1][1:]).all(), "a backward begins before its input is there")
    _demand((begins[1] >= ends[0]).all(), "a backward begins before its forward is over")


def _demand(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"{otherwise}: a mistake of parplan's; please report it")
