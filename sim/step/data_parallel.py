"""Gradient reduction, optimizer step and parameter gather of a rank."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from parplan.sim.event_table import GATHER, OPTIMIZER, REDUCE


class Span(NamedTuple):
    """A reduction, an optimizer step or a gather of one stage, or the norm of the gradients."""

    rank: int
    stage: int
    kind: int
    """Index into `event_table.KINDS`."""
    start_ps: int
    end_ps: int


def bucket_spans(
    begin: int, end: int, total: int, buckets: int, free: int
) -> Iterator[tuple[int, int]]:
    """Spans of the reduction of each bucket of gradients, for a backward from `begin` to `end`.

    Bucket i is ready when its share of the backward is done; the stream is free from `free` on
    and takes `total` for all of them.
    """
    for i in range(buckets):
        ready = begin + (end - begin) * (i + 1) // buckets
        start = max(ready, free)
        free = start + total * (i + 1) // buckets - total * i // buckets
        yield start, free


def reduce_spans(rank: int, stage: int, spans: Iterable[tuple[int, int]]) -> list[Span]:
    """The reductions of a stage."""
    return [Span(rank, stage, REDUCE, start, end) for start, end in spans]


def finish_spans(
    rank: int, now: int, stages: Sequence[tuple[int, int, int]]
) -> tuple[list[Span], int]:
    """Optimizer steps, then gathers, of a rank whose gradients are reduced at `now`; and the end.

    `stages`: for each stage of the rank its number and the picoseconds of the two.
    """
    spans = []
    for kind, column in ((OPTIMIZER, 1), (GATHER, 2)):
        for stage in stages:
            end = now + stage[column]
            if end > now:
                spans.append(Span(rank, stage[0], kind, now, end))
            now = end
    return spans, now
