"""Build a `Run` from the times of a simulated schedule."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from parplan.sim.event_table import EventTable
from parplan.sim.programs.arrays import ActionArrays, B, F, I
from parplan.sim.run import Events, Run
from parplan.sim.step.data_parallel import Span
from parplan.sim.ticks import PS_PER_S, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """The times of every action, in the order of the lists, in picoseconds."""

    start: Ints
    end: Ints
    send_start: Ints
    """When the message of the action entered its link; any number if it made none."""
    send_end: Ints
    """When it left; not after `send_start` if there was none."""
    spans: Sequence[Span]
    """What the ranks did for their data-parallel groups."""
    end_ps: int
    """The end of the step, or the time from step to step."""
    staggered: bool = False
    """As that of a `Run`."""


def as_run(lists: ActionArrays, simulated: StepRecord) -> Run:
    """The run of a predicted step; its events are put in order when they are first asked for."""
    return Run(
        step_s=simulated.end_ps / PS_PER_S,
        events=Events(partial(_table, lists, simulated)),
        staggered=simulated.staggered,
    )


def _table(lists: ActionArrays, simulated: StepRecord) -> EventTable:
    spans = np.array(simulated.spans, dtype=np.int64).reshape(-1, len(Span._fields)).T
    sent = np.flatnonzero(simulated.send_end > simulated.send_start)
    towards = np.select([lists.op == F, (lists.op == B) | (lists.op == I)], [1, -1], 0)
    none = np.full(len(lists), -1)
    no_spans = np.full(spans.shape[1], -1)
    rank, stage = lists.rank(), lists.stage
    columns: dict[str, Any] = {
        "rank": (rank, rank[sent], spans[0]),
        "stage": (stage, stage[sent], spans[1]),
        "kind": (lists.op, lists.op[sent], spans[2]),
        "micro_batch": (lists.micro_batch, lists.micro_batch[sent], no_spans),
        "to_stage": (none, (stage + towards)[sent], no_spans),
    }
    times: dict[str, Any] = {
        "start_ps": (simulated.start, simulated.send_start[sent], spans[3]),
        "end_ps": (simulated.end, simulated.send_end[sent], spans[4]),
    }
    whole: dict[str, Any] = {
        **{name: np.concatenate(parts).astype(np.int32) for name, parts in columns.items()},
        **{name: np.concatenate(parts).astype(np.int64) for name, parts in times.items()},
    }
    return EventTable(**whole).in_order()
