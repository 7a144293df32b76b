"""Measured memory of one process during a step, by action and at its peak.

On a CPU a `StorageTracker` counts; on a GPU torch's allocator does, less what was allocated before.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from parplan.backend.proxies.storage_tracker import StorageTracker


class Segment(NamedTuple):
    """Bytes during a part of a step, relative to those at its start."""

    name: str
    """An event (`0F3`, `reduce 0`, `optimizer 0`), or `before` for what precedes one."""
    change: int
    peak: int


class MemoryWatch:
    """The memory of one process over its steps.

    Enter `watching` to make the model and for every step to be seen; `step` before a step begins,
    `segment` where one of its parts ends.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tracker = StorageTracker() if device.type == "cpu" else None
        self.before = torch.cuda.memory_allocated(device) if self.tracker is None else 0
        self.base_bytes = 0
        self.peak_bytes = 0
        self.segments: list[Segment] = []
        self._others = 0
        self._last = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is made in the body."""
        with self.tracker if self.tracker is not None else contextlib.nullcontext():
            yield

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that were there before."""
        if self.tracker is not None:
            self.tracker.add(tensors)

    def made(self) -> None:
        """The model is ready: what a GPU holds beside it now belongs to others."""
        if self.tracker is None:
            self._others = self.before

    def step(self) -> None:
        """A step begins."""
        self.segments = []
        self.base_bytes = self.peak_bytes = self._last = self._live()
        self._reset()

    def segment(self, name: str) -> None:
        """A part ends."""
        live, peak = self._live(), self._peak()
        self.segments.append(Segment(name, live - self._last, peak - self._last))
        self.peak_bytes = max(self.peak_bytes, peak)
        self._last = live
        self._reset()

    def _live(self) -> int:
        if self.tracker is not None:
            return self.tracker.live_bytes
        return torch.cuda.memory_allocated(self.device) - self._others

    def _peak(self) -> int:
        if self.tracker is not None:
            return self.tracker.peak_bytes
        return torch.cuda.max_memory_allocated(self.device) - self._others

    def _reset(self) -> None:
        if self.tracker is not None:
            self.tracker.reset_peak()
        else:
            torch.cuda.reset_peak_memory_stats(self.device)
