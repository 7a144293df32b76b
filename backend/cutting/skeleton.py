"""The forward of a model without its blocks: what comes before them, or what comes after them.

A skeleton is a copy of the tree of modules that shares the parameters of one end. The blocks are
stand-ins, and parameters that belong elsewhere are zeros without storage, so that the model's own
forward runs and computes nothing that counts but this end.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn


class Reached(Exception):  # noqa: N818 - ends a forward as planned
    """The forward has come to the first block."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.values = values


class FirstBlock(nn.Module):
    """In the place of the first block: ends the forward."""

    def forward(self, values: Any, *more: Any, **named: Any) -> Any:
        """Always raises `Reached`."""
        raise Reached(values)


class BlockBefore(nn.Module):
    """In the place of a block whose output does not count."""

    def __init__(self, form: Callable[[Any], Any]) -> None:
        super().__init__()
        self.form = form

    def forward(self, values: Any, *more: Any, **named: Any) -> Any:
        """What is given, in the form of a block's output."""
        return self.form(values)


class LastBlock(BlockBefore):
    """In the place of the last block: returns what is there already."""

    def __init__(self, form: Callable[[Any], Any]) -> None:
        super().__init__(form)
        self.outputs: list[torch.Tensor] = []

    def forward(self, values: Any, *more: Any, **named: Any) -> Any:
        """The outputs of the blocks."""
        return self.form(self.outputs[-1])


class Skeleton:
    """A copy of a tree of modules with the parameters of one end, called as the model is."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        stand_ins: Sequence[nn.Module],
        owned: Collection[int],
        shared: Collection[int],
    ) -> None:
        """Take out of the model what this stage does not own.

        owned: ids of the parameters that are kept. shared: ids of modules whose buffers are the
        model's own; those of others are copied, because the model's are taken out.
        """
        self._place = {id(block): new for block, new in zip(blocks, stand_ins, strict=True)}
        self._owned, self._shared = owned, shared
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self.root = self._copied(model)

    def _copied(self, module: nn.Module) -> nn.Module:
        if id(module) in self._place:
            return self._place[id(module)]
        new = module.__class__.__new__(module.__class__)
        new.__dict__.update(module.__dict__)
        new.__dict__.pop("forward", None)
        self._place[id(module)] = new
        self._pairs.append((module, new))
        parameters: dict[str, Any] = {}
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in self._owned:
                parameters[name] = parameter
            else:
                zero = torch.zeros((), dtype=parameter.dtype, device=parameter.device)
                parameters[name] = zero.expand(parameter.shape)
        buffers = dict(module._buffers)
        if id(module) not in self._shared:
            buffers = {n: None if b is None else b.clone() for n, b in buffers.items()}
        children = {
            name: None if child is None else self._copied(child)
            for name, child in module._modules.items()
        }
        new.__dict__.update(_parameters=parameters, _buffers=buffers, _modules=children)
        return new

    def __call__(self, *given: Any, **named: Any) -> Any:
        """The model's own forward, in the mode that each of its modules is in."""
        for module, new in self._pairs:
            new.training = module.training
        return type(self.root).forward(self.root, *given, **named)

    def __deepcopy__(self, memo: Any) -> "Skeleton":
        found = Skeleton.__new__(Skeleton)
        found._owned, found._shared, found._place = self._owned, (), {}
        found.root = copy.deepcopy(self.root, memo)
        found._pairs = [(module, memo[id(new)]) for module, new in self._pairs]
        return found

    def apply(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """As `nn.Module._apply` for all but the parameters, which the model moves."""
        for module, new in self._pairs:
            for name, value in new._parameters.items():
                if value is not None and not isinstance(value, nn.Parameter):
                    new._parameters[name] = function(value.new_zeros(())).expand(value.shape)
            buffers = new._buffers
            for name, buffer in buffers.items():
                if buffer is not None:
                    own = module._buffers.get(name) if id(module) in self._shared else None
                    buffers[name] = function(buffer) if own is None else own


def direct_owners(
    model: nn.Module, owned: Collection[int]
) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """The modules that have the parameters of these ids, with their names in them."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in owned:
                yield module, name, parameter
