"""The costs of many candidates as the sweeps read them: in blocks, candidates side by side."""

from dataclasses import dataclass

import numpy as np

from parplan.errors import ParplanError
from parplan.sim.programs.arrays import Codes
from parplan.sim.step.step_end import StepEnd, step_end
from parplan.sim.step.tape import REDUCES_IF_EACH, Tape
from parplan.sim.ticks import VARIANTS, Ints, StageTicks, pair_ps


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTables:
    """Arrays of shape [blocks, rows, lanes]: candidate c is lane c % lanes of block c // lanes.

    Rows are columns of the tape, stages, or ranks; the last block is filled up with zeros.
    """

    column: Codes
    """For each entry of the tape the row of `duration`, `each_*` and `last_*`."""
    reduces: Codes
    """The tape's, but 0 where no candidate reduces."""
    duration: Ints
    send: Ints
    """By stage."""
    latency: Ints
    """By stage."""
    each_total: Ints
    """Reductions in every micro-batch; zero for candidates that have none."""
    each_tail: Ints
    last_total: Ints
    """The reduction after the last gradient of a stage."""
    last_tail: Ints
    end: StepEnd
    """What follows on the lists."""
    num_candidates: int

    @property
    def lanes(self) -> int:
        """Candidates in a block."""
        return int(self.duration.shape[2])


def sweep_tables(
    tape: Tape,
    ticks: StageTicks,
    durations_ps: Ints | None,
    lanes: int,
    post_validation: bool = False,
) -> SweepTables:
    """The tables of all candidates; raises `ParplanError` where they do not fit the tape."""
    if ticks.num_stages != tape.num_stages:
        raise ParplanError(
            f"costs: {ticks.num_stages} stages, but the schedule has {tape.num_stages}"
        )
    count = ticks.num_candidates
    if durations_ps is None:
        column, durations = tape.column, ticks.durations.reshape(count, -1)
        stage = np.repeat(np.arange(tape.num_stages, dtype=np.int32), VARIANTS)
    else:
        column, durations, stage = _own_columns(tape), durations_ps, tape.lists.stage
        if durations.shape != (count, len(tape.lists)):
            raise ParplanError(
                f"durations_ps: shape {list(durations.shape)}, expected {[count, len(tape.lists)]}"
            )
    _check_range(tape, ticks, durations_ps)
    if len(tape.lists.pairs):
        pairs = tape.lists.pairs
        both = tape.pair_columns if durations_ps is None else np.stack((pairs, pairs + 1), axis=1)
        durations, stage = _with_pairs(ticks, durations, stage, both)
    reduces, reductions = _reductions(tape, ticks, durations, stage)
    parts = (durations, ticks.send, ticks.latency, *reductions)
    blocks = [_in_blocks(part, lanes) for part in parts]
    names = ("duration", "send", "latency", "each_total", "each_tail", "last_total", "last_tail")
    return SweepTables(
        column=column,
        reduces=reduces,
        end=step_end(tape, ticks, post_validation),
        num_candidates=count,
        **dict(zip(names, blocks, strict=True)),
    )


def _own_columns(tape: Tape) -> Codes:
    """The column of each entry of the tape where every action has a duration of its own."""
    entries, n, pairs = tape.entries, len(tape.lists), tape.lists.pairs
    column = np.where(entries.pair < 0, entries.action, n + len(pairs))
    column[entries.runs[pairs]] = n + np.arange(len(pairs))
    return column[tape.place].astype(np.int32)


def _with_pairs(
    ticks: StageTicks, durations: Ints, stage: Codes, both: Codes
) -> tuple[Ints, Codes]:
    """Durations and stages of the columns, with those of pairs, and the column of zeros."""
    forward, backward = both.T
    share = ticks.overlap_share[:, stage[forward]]
    together = pair_ps(durations[:, forward], durations[:, backward], share)
    nothing = np.zeros((len(durations), 1), dtype=np.int64)
    whole = np.concatenate((durations, together, nothing), axis=1)
    return whole, np.concatenate((stage, stage[backward], [0])).astype(np.int32)


def _in_blocks(values: Ints, lanes: int) -> Ints:
    """[candidates, rows] as [blocks, rows, lanes]."""
    count, rows = values.shape
    blocks = -(-count // lanes)
    if blocks * lanes > count:
        padding = np.zeros((blocks * lanes - count, rows), dtype=np.int64)
        values = np.concatenate((values, padding))
    return np.ascontiguousarray(values.reshape(blocks, lanes, rows).transpose(0, 2, 1))


def _check_range(tape: Tape, ticks: StageTicks, durations_ps: Ints | None) -> None:
    """Every path is shorter than all that all stages do, one after the other."""
    per_micro_batch = ticks.durations.sum(axis=2) + ticks.reduce + 2 * (ticks.send + ticks.latency)
    once = ticks.optimizer + ticks.gather
    total = per_micro_batch.astype(np.float64) * tape.lists.num_micro_batches + once
    longest = float(total.sum(axis=1).max())
    if durations_ps is not None:
        longest += float(durations_ps.sum(axis=1, dtype=np.float64).max())
    longest = max(longest, float((ticks.reduce * ticks.reduce_buckets.astype(float)).max()))
    if longest > 2.0**62:
        raise ParplanError(
            f"costs: a step of up to {longest / 1e12:.3g} s is longer than 64 bits of picoseconds "
            f"can hold; at most {2**62 / 1e12:.3g} s"
        )


def _reductions(
    tape: Tape, ticks: StageTicks, durations: Ints, stage: Codes
) -> tuple[Codes, tuple[Ints, Ints, Ints, Ints]]:
    """Actions that reduce, with total and tail of their reductions, shape [candidates, rows]."""
    none = np.zeros((ticks.num_candidates, 0), dtype=np.int64)
    if not ticks.reduce.any():
        return np.zeros_like(tape.reduces), (none, none, none, none)
    total = ticks.reduce[:, stage]
    tail = reduce_tail(durations, total, ticks.reduce_buckets[:, stage])
    each = ticks.reduce_each_micro_batch[:, stage]
    if not each.any():
        reduces = np.where(tape.reduces == REDUCES_IF_EACH, 0, tape.reduces)
        return reduces, (none, none, total, tail)
    return tape.reduces, (np.where(each, total, 0), np.where(each, tail, 0), total, tail)


def reduce_tail(backward: Ints, total: Ints, buckets: Ints) -> Ints:
    """Earliest start of a backward's gradient reduction, in time after the begin of that backward.

    Bucket i is ready at share (i + 1) / n of the backward, and the buckets from i on take the
    share (n - i) / n of `total`, both rounded down to whole picoseconds: the longest of these n
    paths. Between the first and the last bucket they lie on a line but for the rounding, so that
    one of these two is the longest; a picosecond longer is one between them at times where `total`
    exceeds the backward, by less than half as many picoseconds as there are buckets.
    """
    n = np.maximum(buckets, 1)
    first = backward // n + total
    last = backward + total - total * (n - 1) // n
    tail: Ints = np.maximum(first, last)
    near = (backward < total) & (total < backward + n // 2)
    for c in zip(*np.nonzero(near), strict=True):
        b, t, k = int(backward[c]), int(total[c]), int(n[c])
        tail[c] = max(b * (i + 1) // k + t - t * i // k for i in range(k))
    return tail
