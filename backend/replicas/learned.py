"""What has been found out about calls of one form: their division, their outputs, their means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from parplan.backend.replicas.division import (
    ROUNDING,
    Call,
    CallDivision,
    Output,
    is_number,
    outputs_by,
)
from parplan.backend.replicas.leaves import leaves_of
from parplan.backend.replicas.weights import CountedBy, shares, ways_of

Run = Callable[[Call], Any]

MOST_TRIES = 8
"""Calls that are tried to find out what a mean counts, where losses are too alike to tell."""


@dataclass(frozen=True, slots=True)
class Learned:
    """How the outputs of such a call follow from those of its parts."""

    division: CallDivision
    outputs: tuple[Output | None, ...]
    ways: tuple[CountedBy, ...]
    """Of counting in a mean: all that explain what was seen; none where there is no mean."""
    tries: int = 1

    @staticmethod
    def parts(size: int, count: int) -> list[range]:
        """Rows of every replica, as equal as may be."""
        ends = [size * (i + 1) // count for i in range(count)]
        return [range(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def weights_now(known: Learned, call: Call, count: int) -> tuple[float, ...] | None:
    """The weights of the parts of this call; None where what is known leaves them open."""
    parts = known.parts(known.division.size(call), count)
    if not known.ways:
        return tuple(1 / count for _ in parts)
    found = [shares(call, known.division, way, parts) for way in known.ways]
    return found[0] if len(set(found)) == 1 or known.tries >= MOST_TRIES else None


def learn(
    run: Run,
    call: Call,
    candidates: Sequence[CallDivision],
    count: int,
    within: float,
    known: Learned | None,
    *,
    next_first: bool,
) -> Learned | str:
    """Try divisions until one gives what the whole batch gives; or say why none does.

    `within`: the relative difference that is rounding. known: from earlier calls of this form; what
    it rules out is not tried again.
    """
    if known is not None and known.division in candidates:
        candidates = [known.division, *(d for d in candidates if d != known.division)]
    expected = run(call)
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves_of(expected)):
        kind = type(expected).__name__
        return f"its forward returns no tensor ({kind}), so there is nothing to train by"
    failures: list[str] = []
    for division in candidates:
        parts = Learned.parts(division.size(call), count)
        try:
            found = [run(division.part(call, rows)) for rows in parts]
        except Exception as error:  # of the model, for what is no part of a batch
            line = (str(error).splitlines() or [""])[0]
            failures.append(f" ({type(error).__name__}: {line[:120]})")
            continue
        earlier = known.ways if known is not None and known.division == division else ()
        ways = [*earlier] or list(ways_of(call, division, next_first=next_first))
        if result := _explained(call, division, ways, found, expected, parts, within):
            return replace(result, tries=1 if known is None else known.tries + 1)
    why = failures[0] if len(failures) == len(candidates) else ""
    return (
        "what it returns for a batch is not that of its parts put together: its rows depend on "
        "each other, or its loss is no mean or sum over rows or labels; data parallelism would "
        f"train another model{why}"
    )


def _explained(
    call: Call,
    division: CallDivision,
    ways: Sequence[CountedBy],
    found: Sequence[Any],
    expected: Any,
    parts: Sequence[range],
    within: float,
) -> Learned | None:
    sizes = [len(rows) for rows in parts]
    results: list[tuple[float, CountedBy, tuple[Output | None, ...]]] = []
    for way in ways:
        if (weights := shares(call, division, way, parts)) is None:
            continue
        if (result := outputs_by(found, expected, sizes, weights, within)) is not None:
            results.append((result[1], way, tuple(result[0])))
    if not results:
        return None
    least = min(worst for worst, _, _ in results)
    good = [result for result in results if result[0] <= max(2 * least, ROUNDING)]
    outputs = good[0][2]
    same = tuple(way for _, way, of_way in good if of_way == outputs)
    means = any(output is not None and output.kind == "mean" for output in outputs)
    scalar = any(is_number(leaf) for leaf in leaves_of(expected))
    return Learned(division, outputs, same if means and scalar else ())
