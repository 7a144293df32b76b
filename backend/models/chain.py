"""Models as chains of layers, which is what a pipeline can cut."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from parplan.errors import ParplanError

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> the mean loss of a micro-batch."""


class NoChainError(ParplanError):
    """A model, or a call of it, that is no chain of layers with a loss at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A model as layers, each taking what the one before returns, and a loss."""

    layers: tuple[nn.Module, ...]
    num_first: int
    """Layers before the blocks, which stay on the first stage."""
    num_last: int
    """Layers after the blocks, which stay on the last stage."""
    loss_fn: LossFunction

    @property
    def num_blocks(self) -> int:
        """Layers that are spread over the stages."""
        return len(self.layers) - self.num_first - self.num_last


def around_blocks(layers: Sequence[nn.Module]) -> tuple[int, int]:
    """Return the numbers of layers before and after the blocks.

    The blocks are the longest run of layers of one type; without a run of two, every layer is one.
    """
    runs: list[tuple[int, int]] = []  # (length, start)
    start = 0
    for i in range(1, len(layers) + 1):
        if i == len(layers) or type(layers[i]) is not type(layers[start]):
            runs.append((i - start, start))
            start = i
    length, first = max(runs, key=lambda run: run[0], default=(0, 0))
    return (first, len(layers) - first - length) if length > 1 else (0, 0)


def check_chain(model: nn.Module, forward: Callable[..., Any], chain: Chain, *batch: Any) -> None:
    """Raise `NoChainError` unless `forward` gives the chain's loss on the first row of `batch`."""
    example = next(model.parameters(), torch.empty(0))
    inputs, targets = (part[:1].to(example.device) for part in batch)
    with evaluating(model), torch.no_grad():
        expected = forward(inputs, targets)
        found = _by_layers(model, chain, inputs, targets)
    if not isinstance(expected, torch.Tensor) or expected.numel() != 1:
        raise NoChainError(
            f"{type(model).__name__}: its forward(inputs, targets) has to return the loss, "
            f"one number; got {type(expected).__name__}"
        )
    if not torch.allclose(expected, found, rtol=1e-4, equal_nan=True):
        raise NoChainError(
            f"{type(model).__name__}: its forward gives a loss of {expected.item():.6g}, its "
            f"{len(chain.layers)} layers and loss_fn one after the other give {found.item():.6g}"
        )


def _by_layers(model: nn.Module, chain: Chain, values: Any, targets: Any) -> torch.Tensor:
    """The loss of the layers one after the other; raises `NoChainError` where they fail."""
    name = type(model).__name__
    for layer in chain.layers:
        try:
            values = layer(values)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            line = str(error).splitlines()[0]
            raise NoChainError(
                f"{name}: {type(layer).__name__} fails when the layers are called one after the "
                f"other ({line})"
            ) from error
        if not isinstance(values, torch.Tensor):
            raise NoChainError(
                f"{name}: {type(layer).__name__} returns a {type(values).__name__}; layers of a "
                "chain pass one tensor on"
            )
    return chain.loss_fn(values, targets)


def check_mean(model: nn.Module, chain: Chain, *batch: torch.Tensor) -> None:
    """Raise `NoChainError` unless the loss of two rows is the mean of their losses."""
    if len(batch[0]) < 2:
        return
    example = next(model.parameters(), torch.empty(0))
    inputs, targets = (part[:2].to(example.device) for part in batch)
    with evaluating(model), torch.no_grad():
        both, first, second = (
            _loss(chain, inputs[rows], targets[rows]) for rows in (slice(2), slice(1), slice(1, 2))
        )
    if both.numel() != 1:
        raise NoChainError(
            f"{type(model).__name__}: its forward returns {both.numel()} losses for two rows, not "
            "their mean"
        )
    mean = (first + second) / 2
    rough = example.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(
        example.device.type
    )
    if not torch.allclose(both, mean, rtol=3e-2 if rough else 1e-4, equal_nan=True):
        raise NoChainError(
            f"{type(model).__name__}: the loss of two rows is {both.item():.6g}, the mean of the "
            f"losses of each alone {mean.item():.6g}; micro-batches need a mean over the rows"
        )


def _loss(chain: Chain, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    values = inputs
    for layer in chain.layers:
        values = layer(values)
    return chain.loss_fn(values, targets)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode for a while."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
