"""Random numbers of a plan's computations, apart from those of the script.

Processes compute different parts, so dropout draws different amounts on each. Drawn from the
script's generators, that would make them shuffle their data differently from then on. The script's
generators begin alike, also where it sets no seed.
"""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from parplan.backend.workers.processes import agree, num_processes


class RandomStream:
    """Draws from a seed of its own; the script's generators stay as they are."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        with kept_random_numbers(device):
            torch.manual_seed(seed)
            self._states = _now(device)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """The body draws from this stream, and goes on where the last one ended."""
        with kept_random_numbers(self.device):
            _set(self._states, self.device)
            try:
                yield
            finally:
                self._states = _now(self.device)


@contextlib.contextmanager
def kept_random_numbers(device: torch.device) -> Iterator[None]:
    """What the body draws is not drawn from the script's generators."""
    before = _now(device)
    try:
        yield
    finally:
        _set(before, device)


def _now(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def share_random_numbers(device: torch.device) -> bool:
    """Let all processes draw what the first one draws from now on; whether they drew other numbers.

    Of torch, `random` and numpy: a script without a seed then shuffles alike everywhere.
    """
    if num_processes() == 1:
        return False
    numpy = sys.modules.get("numpy")

    def states() -> Any:
        legacy = numpy.random.get_state() if numpy else None
        return torch.get_rng_state(), random.getstate(), legacy, torch.initial_seed()

    own, shared = states(), agree(states)
    differed = not torch.equal(own[0], shared[0]) or own[1] != shared[1]
    if not torch.equal(own[0], shared[0]):
        if own[3] != shared[3] and device.type == "cuda":
            torch.cuda.manual_seed(shared[3])
        torch.set_rng_state(shared[0])
    random.setstate(shared[1])
    if numpy and shared[2] is not None:
        numpy.random.set_state(shared[2])
    return differed
