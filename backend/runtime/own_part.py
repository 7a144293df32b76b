"""Reduction of a model to the part that this process has under a plan."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from parplan.errors import ParplanError


class OnAnotherProcess(nn.Module):
    """In the place of a layer that another process has."""

    asked_as_whole = False
    """Whether the model asks for its whole state, to which other processes add this layer's."""

    def forward(self, *inputs: Any) -> Any:
        """Always raises `ParplanError`."""
        raise ParplanError("this layer is on another process; call the model as a whole")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not self.asked_as_whole:
            raise ParplanError(
                f"state_dict of a part of the model, in which {prefix.rstrip('.') or 'a layer'} is "
                "on another process; call state_dict of the whole model"
            )

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ParplanError(
            "a layer that is on another process cannot be copied or saved as an object; save "
            "model.state_dict()"
        )


def leave_out(model: nn.Module, kept: Iterable[nn.Module]) -> None:
    """Take the modules with parameters that are not in `kept` out of `model`.

    Their parameters stay the objects they are, without values: an optimizer that was made before
    keeps no memory for them, and what would go on with stale values fails.
    """
    own = {id(module) for part in kept for module in part.modules()}
    staying = {id(p) for part in kept for p in (*part.parameters(), *part.buffers())}
    gone = [t for t in (*model.parameters(), *model.buffers()) if id(t) not in staying]
    _leave_out(model, own)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in staying:  # beside children of which some are here
                module._parameters[name] = None
    left = {id(t) for t in (*model.parameters(), *model.buffers())}
    for tensor in gone:
        if id(tensor) not in left:
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            tensor.grad = None


def _leave_out(module: nn.Module, own: set[int]) -> None:
    for child_name, child in list(module.named_children()):
        with_parameters = [m for m in child.modules() if _has_parameters(m)]
        if with_parameters and not any(id(m) in own for m in with_parameters):
            module.set_submodule(child_name, OnAnotherProcess())
        elif any(id(m) not in own for m in with_parameters):
            _leave_out(child, own)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
