"""Rank placement: the order of the parallelism axes over consecutive ranks.

With order (tensor, data, pipeline) and sizes (8, 4, 2), rank = t + 8 (d + 4 p): tensor-parallel
ranks are neighbours, pipeline stages are farthest apart (Narayanan et al. 2021, arXiv:2104.04473,
section 3.2, and the `order` of Megatron-LM's parallel groups).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

from parplan.errors import ParplanError

AXES = ("tensor", "context", "expert", "data", "pipeline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The axes, innermost first, and how many ranks lie along each."""

    order: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in self.order:
            if name not in AXES:
                raise ParplanError(f"order: unknown axis {name!r}; known: {', '.join(AXES)}")
            if self.order.count(name) > 1:
                raise ParplanError(f"order: {name!r} is given more than once")
        if len(self.sizes) != len(self.order):
            raise ParplanError(f"sizes: {len(self.order)} axes need as many, got {len(self.sizes)}")
        for name, size in zip(self.order, self.sizes, strict=True):
            if size < 1:
                raise ParplanError(f"sizes: {name} must be 1 or more, got {size}")

    @property
    def num_ranks(self) -> int:
        """The number of placed ranks."""
        return prod(self.sizes)

    def size(self, axis: str) -> int:
        """Ranks along `axis`: 1 for a known axis that is not in the order."""
        self._check_axis(axis)
        return self.sizes[self.order.index(axis)] if axis in self.order else 1

    def stride(self, axis: str) -> int:
        """The distance between neighbours along `axis`, as a difference of ranks."""
        self._check_axis(axis)
        place = self.order.index(axis) if axis in self.order else len(self.order)
        return prod(self.sizes[:place])

    def rank_of(self, coordinates: Mapping[str, int]) -> int:
        """The rank at `coordinates`; axes that are not named are at 0.

        Raises `ParplanError` for an unknown axis or a coordinate outside of it.
        """
        for axis, coordinate in coordinates.items():
            if not 0 <= coordinate < self.size(axis):
                raise ParplanError(
                    f"{axis} coordinate {coordinate}: the axis has 0 to {self.size(axis) - 1}"
                )
        return sum(self.stride(axis) * coordinate for axis, coordinate in coordinates.items())

    def coordinates_of(self, rank: int) -> dict[str, int]:
        """The coordinate of `rank` along each axis of the order. Raises `ParplanError`."""
        if not 0 <= rank < self.num_ranks:
            raise ParplanError(f"rank {rank}: the placement has ranks 0 to {self.num_ranks - 1}")
        sizes = zip(self.order, self.sizes, strict=True)
        return {axis: rank // self.stride(axis) % size for axis, size in sizes}

    def group(self, rank: int, *axes: str) -> tuple[int, ...]:
        """The ranks that differ from `rank` along `axes` alone, itself among them, in order."""
        start = self.coordinates_of(rank)
        ranges = [range(self.size(axis)) for axis in axes]
        ranks = (
            self.rank_of({**start, **dict(zip(axes, at, strict=True))}) for at in product(*ranges)
        )
        return tuple(sorted(ranks))

    def groups(self, *axes: str) -> tuple[tuple[int, ...], ...]:
        """Every group along `axes`, by first rank: together they hold each rank once."""
        return tuple(sorted({self.group(rank, *axes) for rank in range(self.num_ranks)}))

    def neighbours(self, rank: int, axis: str = "pipeline") -> tuple[int | None, int | None]:
        """The ranks before and after `rank` along `axis`, without wrapping round."""
        at, stride = self.coordinates_of(rank).get(axis, 0), self.stride(axis)
        before = rank - stride if at > 0 else None
        return before, rank + stride if at + 1 < self.size(axis) else None

    def _check_axis(self, axis: str) -> None:
        if axis not in AXES:
            raise ParplanError(f"unknown axis {axis!r}; known: {', '.join(AXES)}")
