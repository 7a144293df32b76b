"""Finding the chain of layers in an ordinary model, which is what a pipeline can cut.

The model's forward takes (inputs, targets) and returns the loss; inside, it passes the inputs
through a chain of layers and computes the loss from what comes out.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from parplan.backend.runtime.pipeline import LossFunction
from parplan.errors import ParplanError


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


def find_chain(
    model: nn.Module,
    layers: Sequence[nn.Module] | None = None,
    loss_fn: LossFunction | None = None,
) -> Chain:
    """The chain of `model`; what is not given is found in it.

    layers: the children of the one `nn.Sequential` that holds all of the model's parameters.
    loss_fn: the model's own forward, with that container returning outputs that are there already.
    Those of a Hugging Face model are its embeddings, decoder layers and head, and its own loss.
    Raises `ParplanError` when there is no such container.
    """
    if layers is None and is_hf_model(model):
        from parplan.backend.models.hf_chain import hf_chain  # it makes chains

        found = hf_chain(model)
        return found if loss_fn is None else dataclasses.replace(found, loss_fn=loss_fn)
    name = _container(model)
    if layers is None:
        if name is None:
            raise ParplanError(
                f"{type(model).__name__}: no child nn.Sequential holds all of its parameters; "
                "pass layers=[...] (the chain in order) and loss_fn=..."
            )
        layers = list(model.get_submodule(name).children())
    if loss_fn is None:
        if name is None:
            raise ParplanError(f"{type(model).__name__}: loss_fn is needed with layers")
        loss_fn = _own_loss(model, name)
    num_first, num_last = around_blocks(layers)
    return Chain(layers=tuple(layers), num_first=num_first, num_last=num_last, loss_fn=loss_fn)


def is_hf_model(model: nn.Module) -> bool:
    """Whether it is one of Hugging Face's models; does not import transformers."""
    return any(
        kind.__name__ == "PreTrainedModel" and kind.__module__.startswith("transformers.")
        for kind in type(model).__mro__
    )


def around_blocks(layers: Sequence[nn.Module]) -> tuple[int, int]:
    """How many layers come before and after the blocks: the longest run of one type.

    Without a run of two, every layer is a block.
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
    """Raise `ParplanError` unless `forward` gives the chain's loss on the first row of `batch`."""
    example = next(model.parameters(), torch.empty(0))
    inputs, targets = (part[:1].to(example.device) for part in batch)
    with evaluating(model), torch.no_grad():
        expected = forward(inputs, targets)
        values = inputs
        for layer in chain.layers:
            values = layer(values)
        found = chain.loss_fn(values, targets)
    if not isinstance(expected, torch.Tensor) or expected.numel() != 1:
        raise ParplanError(
            f"{type(model).__name__}: its forward(inputs, targets) has to return the loss, "
            f"one number; got {type(expected).__name__}"
        )
    if not torch.allclose(expected, found, rtol=1e-4, equal_nan=True):
        raise ParplanError(
            f"{type(model).__name__}: its forward gives a loss of {expected.item():.6g}, its "
            f"{len(chain.layers)} layers and loss_fn one after the other give {found.item():.6g}"
        )


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


class _Given(nn.Module):
    """Stands for the chain when its outputs are there already."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[torch.Tensor] = []

    def forward(self, *inputs: Any) -> torch.Tensor:
        return self.outputs.pop()


def _own_loss(model: nn.Module, name: str) -> LossFunction:
    forward = model.forward
    given = _Given()

    def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        chain = model.get_submodule(name)
        given.outputs.append(outputs)
        setattr(model, name, given)
        try:
            loss: torch.Tensor = forward(None, targets)
        except Exception as error:
            raise ParplanError(
                f"{type(model).__name__}: its loss cannot be computed from the outputs of "
                f"{name} and the targets alone ({error}); pass loss_fn=..."
            ) from error
        finally:
            setattr(model, name, chain)
            given.outputs.clear()
        return loss

    return loss_fn


def _container(model: nn.Module) -> str | None:
    parameters = {id(p) for p in model.parameters()}
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential) and {id(p) for p in child.parameters()} == parameters:
            return name
    return None
