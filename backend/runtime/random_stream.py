"""Random numbers of a plan's computations, apart from those of the script.

Processes compute different parts, so dropout draws different amounts on each. Drawn from the
script's generators, that would make them shuffle their data differently from then on.
"""

import contextlib
from collections.abc import Iterator

import torch


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
