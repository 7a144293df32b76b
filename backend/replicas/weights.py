"""Weights of the parts of a batch in a mean: by rows, or by what the loss counts."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from parplan.backend.replicas.division import Call, CallDivision, rows_of
from parplan.backend.replicas.leaves import leaves_of

Counted = Literal["rows", "labels", "next labels", "not zero"]


class CountedBy(NamedTuple):
    """What is counted, and in which leaf of the call."""

    counted: Counted
    leaf: int = 0


def ways_of(call: Call, division: CallDivision, *, next_first: bool) -> Iterator[CountedBy]:
    """What may be counted in such a call: labels that are not negative, entries of masks, rows.

    next_first: labels are those of the next token, so the first one of a row does not count.
    """
    leaves = leaves_of(call)
    whole = [
        i
        for i, (leaf, place) in enumerate(zip(leaves, division.places, strict=True))
        if isinstance(leaf, torch.Tensor) and isinstance(place, int) and not leaf.is_complex()
        if not leaf.is_floating_point()
    ]
    for leaf in reversed(whole):
        if leaves[leaf].dtype == torch.bool:
            continue
        deep = leaves[leaf].dim() > 1 and division.places[leaf] == 0
        if deep and next_first:
            yield CountedBy("next labels", leaf)
        yield CountedBy("labels", leaf)
        if deep and not next_first:
            yield CountedBy("next labels", leaf)
    yield CountedBy("rows")
    for leaf in whole:
        yield CountedBy("not zero", leaf)


def shares(
    call: Call, division: CallDivision, way: CountedBy, parts: Sequence[range]
) -> tuple[float, ...] | None:
    """The share of every part; None where nothing counts."""
    if way.counted == "rows":
        counts = [len(rows) for rows in parts]
    else:
        leaf = leaves_of(call)[way.leaf]
        if way.counted == "next labels":
            leaf = leaf[:, 1:]
        counting = leaf != 0 if way.counted == "not zero" else leaf >= 0
        place = division.places[way.leaf]
        counts = [int(rows_of(counting, place, rows).sum()) for rows in parts]
    total = sum(counts)
    return tuple(count / total for count in counts) if total else None
