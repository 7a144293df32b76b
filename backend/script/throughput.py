"""Tokens per second and memory of a training script, told every so many steps."""

import os
import statistics
from collections import deque

import torch

from parplan.backend.script.words import bytes_in_words
from parplan.errors import ParplanError

NAME = "PARPLAN_LOG_STEPS"
"""A line after every so many steps; 0 for none."""


def every_from_environment() -> int:
    """Steps from one line to the next; raises `ParplanError` for anything but a whole number."""
    given = os.environ.get(NAME, "0")
    if not given.isdecimal():
        raise ParplanError(f"{NAME}: expected a number of steps, 0 for no lines, got {given!r}")
    return int(given)


class Throughput:
    """The rate of the steps, from the end of one to the end of the next, whatever is between."""

    def __init__(self, every: int, device: torch.device) -> None:
        self.every, self.device = every, device
        self.unit = "rows"
        self.number = 0
        self.last_s: float | None = None
        self.seconds: deque[float] = deque(maxlen=max(1, every))

    def items_of(self, batch: torch.Tensor) -> int:
        """Tokens of whole numbers in rows; rows of anything else."""
        tokens = batch.dim() == 2 and not batch.is_floating_point() and not batch.is_complex()
        self.unit = "tokens" if tokens else "rows"
        return batch.numel() if tokens else len(batch)

    def step(self, end_s: float, items: int) -> str:
        """What to say after a step that ended then; empty for most."""
        self.number += 1
        if self.last_s is not None:
            self.seconds.append(end_s - self.last_s)
        self.last_s = end_s
        if not self.every or self.number % self.every or not self.seconds:
            return ""
        median_s = statistics.median(self.seconds)
        text = f"step {self.number}: {median_s:.4f} s, {self.rate(items, median_s)}"
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            text += f", memory {bytes_in_words(peak)}"
        return text

    def rate(self, items: int, step_s: float) -> str:
        """Items per second in words."""
        return f"{items / step_s:,.0f} {self.unit}/s"
