"""Tokens per second and memory of a training script, told every so many steps."""

import os
import statistics
from collections import deque

import torch

from parplan.backend.models.flops import peak_flop_per_s
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

    def __init__(
        self,
        every: int,
        device: torch.device,
        flops_each: float | None = None,
        num_processes: int = 1,
    ) -> None:
        """`flops_each`: of a step, for each value of its first input."""
        self.every, self.device = every, device
        self.flops_each, self.num_processes = flops_each, num_processes
        self.values = 1.0
        """Of the input, for each item that is counted."""
        self.unit = "rows"
        self.number = 0
        self.last_s: float | None = None
        self.seconds: deque[float] = deque(maxlen=max(1, every))

    def items_of(self, batch: torch.Tensor) -> int:
        """Tokens of whole numbers in rows; rows of anything else."""
        tokens = batch.dim() == 2 and not batch.is_floating_point() and not batch.is_complex()
        self.unit = "tokens" if tokens else "rows"
        self.values = 1.0 if tokens else batch.numel() / max(1, len(batch))
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
        """Items and operations per second in words, and MFU where the peak is known."""
        text = f"{items / step_s:,.0f} {self.unit}/s"
        if not self.flops_each:
            return text
        flop_per_s = self.flops_each * self.values * items / step_s / self.num_processes
        text += f", {flop_per_s / 1e12:.3g} TFLOP/s a process"
        peak = peak_flop_per_s(self.device)
        return text + (f" (MFU {flop_per_s / peak:.1%} of bf16)" if peak else "")
