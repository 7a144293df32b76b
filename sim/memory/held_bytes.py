"""Bytes held over the parts of a rank's step, one after the other, modelled or measured."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBytes:
    """Bytes that one part of a step holds, relative to its start."""

    change: float
    """At its end."""
    peak: float
    """While it runs."""


def held_over(parts: Iterable[HeldBytes], start: float = 0.0) -> Iterator[tuple[float, float]]:
    """Bytes of each part while it runs and after it, when `start` are held before the first."""
    held = start
    for part in parts:
        while_running = held + part.peak
        held += part.change
        yield while_running, held


def highest_bytes(parts: Iterable[HeldBytes], start: float = 0.0) -> float:
    """The most bytes that are held at any time, at least `start`."""
    return max([start, *(running for running, _ in held_over(parts, start))])
