"""Which parts of a call are rows of the batch, and of what its outputs consist.

Both are found by trying: a division is right where the outputs of its parts, put together, are
those of the whole batch.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from parplan.backend.replicas.leaves import is_list_of_values, leaves_of, map_leaves

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments, and those with names."""

Place = int | Literal["items"] | None
"""The dimension of a tensor that is rows; the items of a list; what all rows share."""

MOST_TRIALS = 16

Kind = Literal["rows", "mean", "sum", "same"]


@dataclass(frozen=True, slots=True)
class CallDivision:
    """Where the rows are in a call of one form."""

    places: tuple[Place, ...]
    first: int
    """The leaf that says how many rows there are."""

    def size(self, call: Call) -> int:
        """Rows of a call."""
        return _length(leaves_of(call)[self.first], self.places[self.first])

    def fits(self, call: Call) -> bool:
        """Whether every leaf that is rows has as many as the others."""
        leaves = leaves_of(call)
        if len(leaves) != len(self.places):
            return False
        lengths = {
            _length(leaf, place)
            for leaf, place in zip(leaves, self.places, strict=True)
            if place is not None
        }
        return len(lengths) == 1 and -1 not in lengths

    def part(self, call: Call, rows: range, take: Callable[[Any, Place], Any] | None = None) -> Any:
        """The call with these rows alone; `take` takes them from a tensor otherwise."""
        places = iter(self.places)

        def change(leaf: Any) -> Any:
            place = next(places)
            if isinstance(leaf, torch.Tensor) and take is not None:
                return take(leaf, place)
            return rows_of(leaf, place, rows)

        return map_leaves(change, call)


def rows_of(leaf: Any, place: Place, rows: range) -> Any:
    """Some rows of a tensor or list."""
    if place is None:
        return leaf
    if place == "items":
        return leaf[rows.start : rows.stop]
    return leaf.narrow(place, rows.start, len(rows))


def form_of(call: Call) -> tuple[object, ...]:
    """What calls have in common that are divided alike."""
    return tuple(
        leaf.dim() if isinstance(leaf, torch.Tensor) else type(leaf).__name__
        for leaf in leaves_of(call)
    )


def divisions(call: Call) -> Iterator[CallDivision]:
    """What to try, the likeliest first: rows of the first tensor, its columns, items of lists."""
    leaves = leaves_of(call)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    starts: list[tuple[int, Place]] = [(i, 0) for i in tensors[:1]]
    starts += [(i, 1) for i in tensors[:1] if leaves[i].dim() > 1]
    starts += [(i, "items") for i, leaf in enumerate(leaves) if is_list_of_values(leaf)][:1]
    found = itertools.chain.from_iterable(_from(leaves, *start) for start in starts)
    yield from itertools.islice(found, MOST_TRIALS)


def rows_in(call: Call) -> int:
    """Rows by the likeliest division; 1 where there is none."""
    return next((division.size(call) for division in divisions(call)), 1)


def _from(leaves: Sequence[Any], first: int, place: Place) -> Iterator[CallDivision]:
    size = _length(leaves[first], place)
    options = [
        (place,) if i == first else (*_places(leaf, size, place), None)
        for i, leaf in enumerate(leaves)
    ]
    for places in itertools.islice(itertools.product(*options), MOST_TRIALS // 2):
        yield CallDivision(places, first)


def _places(leaf: Any, size: int, like: Place) -> list[Place]:
    if is_list_of_values(leaf):
        return ["items"] if len(leaf) == size else []
    if not isinstance(leaf, torch.Tensor):
        return []
    order: list[Place] = [like, 0, 1] if isinstance(like, int) else [0, 1]
    return [place for place in dict.fromkeys(order) if _length(leaf, place) == size]


def _length(leaf: Any, place: Place) -> int:
    """Rows of a leaf; -1 where it has no such place."""
    if place == "items":
        return len(leaf) if is_list_of_values(leaf) else -1
    if place is None or not isinstance(leaf, torch.Tensor) or leaf.dim() <= place:
        return -1
    return leaf.shape[place]


@dataclass(frozen=True, slots=True)
class Output:
    """How a leaf of the outputs follows from those of the parts."""

    kind: Kind
    dim: int = 0


def outputs_by(
    parts: Sequence[Any], whole: Any, sizes: Sequence[int], weights: Sequence[float], within: float
) -> tuple[list[Output | None], float] | None:
    """For every leaf how it follows, and the largest relative difference; None if one does not.

    `weights`: of the parts in a mean. None for a leaf that is no number.
    """
    expected = leaves_of(whole)
    columns = [leaves_of(part) for part in parts]
    if any(len(column) != len(expected) for column in columns):
        return None
    found: list[Output | None] = []
    worst = 0.0
    for leaves, value in zip(zip(*columns, strict=True), expected, strict=True):
        if not is_number(value):
            found.append(None)
            continue
        tensors = [torch.as_tensor(leaf) for leaf in leaves]
        output, difference = _follows(tensors, torch.as_tensor(value), sizes, weights)
        if difference > within:
            return None
        found.append(output)
        worst = max(worst, difference)
    return found, worst


def is_number(value: Any) -> bool:
    """Whether a leaf is a tensor or a number, but not a truth value."""
    return isinstance(value, torch.Tensor | float | int) and not isinstance(value, bool)


def _follows(
    parts: Sequence[torch.Tensor],
    whole: torch.Tensor,
    sizes: Sequence[int],
    weights: Sequence[float],
) -> tuple[Output, float]:
    """The way with the smallest difference, the first one of those that are as good."""
    ways: list[tuple[Output, torch.Tensor]] = []
    for dim in range(min(2, whole.dim())):
        lengths = [part.shape[dim] if part.dim() == whole.dim() else -1 for part in parts]
        each = whole.shape[dim] // sum(sizes)
        if each and lengths == [n * each for n in sizes] and sum(lengths) == whole.shape[dim]:
            ways.append((Output("rows", dim), torch.cat(list(parts), dim)))
    if all(part.shape == whole.shape for part in parts):
        # Losses of parts may be alike by chance: a mean is tried before what is the same.
        if whole.is_floating_point():
            mean = sum(part * weight for part, weight in zip(parts, weights, strict=True))
            ways.append((Output("mean"), torch.as_tensor(mean)))
        if all(torch.equal(part, whole) for part in parts):
            ways.append((Output("same"), whole))
        ways.append((Output("sum"), torch.stack(list(parts)).sum(0)))
    differences = [_difference(value, whole) for _, value in ways]
    if not ways:
        return Output("same"), float("inf")
    best = min(differences)
    good = [difference <= max(2 * best, ROUNDING) for difference in differences]
    number = good.index(True) if any(good) else differences.index(best)
    return ways[number][0], differences[number]


ROUNDING = 1e-6


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative to the largest value."""
    if one.shape != other.shape:
        return float("inf")
    if not other.numel():
        return 0.0
    a, b = one.double(), other.double()
    worst = float(((a - b).abs() / b.abs().max().clamp_min(1e-6)).nan_to_num(nan=0.0).max())
    return worst if torch.equal(a.isnan(), b.isnan()) else float("inf")
