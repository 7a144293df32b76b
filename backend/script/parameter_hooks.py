"""Hooks on the gradients of parameters, which see those of the whole batch alone."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

NAMES = ("_backward_hooks", "_post_accumulate_grad_hooks")


@contextlib.contextmanager
def unhooked(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No hooks of the script in the body, whose backwards are of single micro-batches.

    They run in the backward of the loss, as in one process. Those of DTensors are torch's own.
    """
    held: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            continue
        for name in NAMES:
            if hooks := getattr(parameter, name, None):
                held.append((hooks, dict(hooks)))
                hooks.clear()
    try:
        yield
    finally:
        for hooks, before in held:
            hooks.update(before)
