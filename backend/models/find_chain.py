"""Finding the chain of layers in an ordinary model, which is what a pipeline can cut.

The model's forward takes (inputs, targets) and returns the loss; inside, it passes the inputs
through a chain of layers and computes the loss from what comes out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from parplan.backend.models.chain import Chain, LossFunction, NoChainError, around_blocks
from parplan.backend.models.hf_chain import hf_chain


def find_chain(
    model: nn.Module,
    layers: Sequence[nn.Module] | None = None,
    loss_fn: LossFunction | None = None,
) -> Chain:
    """The chain of `model`; what is not given is found in it.

    layers: the children of the one `nn.Sequential` that holds all of the model's parameters.
    loss_fn: the model's own forward, with that container returning outputs that are there already.
    Those of a Hugging Face model are its embeddings, decoder layers and head, and its own loss.
    Raises `NoChainError` when there is no such container.
    """
    if layers is None and is_hf_model(model):
        found = hf_chain(model)
        return found if loss_fn is None else dataclasses.replace(found, loss_fn=loss_fn)
    name = _container(model)
    if layers is None:
        if name is None:
            raise NoChainError(
                f"{type(model).__name__}: no child nn.Sequential holds all of its parameters; "
                "pass layers=[...] (the chain in order) and loss_fn=..."
            )
        layers = list(model.get_submodule(name).children())
    if loss_fn is None:
        if name is None:
            raise NoChainError(f"{type(model).__name__}: loss_fn is needed with layers")
        loss_fn = _own_loss(model, name)
    num_first, num_last = around_blocks(layers)
    return Chain(layers=tuple(layers), num_first=num_first, num_last=num_last, loss_fn=loss_fn)


def is_hf_model(model: nn.Module) -> bool:
    """Whether it is one of Hugging Face's models; does not import transformers."""
    return any(
        kind.__name__ == "PreTrainedModel" and kind.__module__.startswith("transformers.")
        for kind in type(model).__mro__
    )


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
            raise NoChainError(
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
