"""The calls of a model's blocks, as its own forward makes them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from parplan.backend.cutting.how_called import Call, same
from parplan.backend.models.chain import NoChainError, evaluating

NOT_IN_ORDER = "its blocks are not called once each, one after the other"


class BlockCall(NamedTuple):
    """One call of one block."""

    values: torch.Tensor
    more: tuple[Any, ...]
    """What it is given beside the values, by position."""
    named: dict[str, Any]
    result: Any


def block_lists(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Lists of modules, the one with most parameters first."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential | nn.ModuleDict) and len(module) > 1:
            children = list(module.children())
            if len({id(child) for child in children}) == len(module):
                found.append((sum(p.numel() for p in module.parameters()), children))
    yield from (children for size, children in sorted(found, key=lambda pair: -pair[0])[:2] if size)


def recorded(model: nn.Module, blocks: Sequence[nn.Module], call: Call) -> list[BlockCall]:
    """Arguments and result of every block, in the order of their calls.

    Raises `NoChainError` unless each takes what the one before returns.
    """
    calls: list[tuple[nn.Module, Any, Any, Any]] = []
    hooks = [
        block.register_forward_hook(
            lambda m, args, named, result: calls.append((m, args, named, result)), with_kwargs=True
        )
        for block in blocks
    ]
    try:
        with torch.no_grad(), evaluating(model):
            type(model).forward(model, *call[0], **call[1])
    finally:
        for hook in hooks:
            hook.remove()
    if [id(c[0]) for c in calls] != [id(block) for block in blocks]:
        raise NoChainError(NOT_IN_ORDER)
    before: Any = None
    found = []
    for index, (_, args, named, result) in enumerate(calls):
        values = args[0] if args else None
        if not isinstance(values, torch.Tensor) or (index and values is not before):
            raise NoChainError(f"block {index} does not take what the one before returns")
        before = values_of(result)
        found.append(BlockCall(values, args[1:], named, result))
    return found


def values_of(result: Any) -> torch.Tensor:
    """What a block hands on; raises `NoChainError` for more than one tensor."""
    values = result[0] if isinstance(result, tuple) and result else result
    rest = result[1:] if isinstance(result, tuple) else ()
    if not isinstance(values, torch.Tensor) or any(v is not None for v in rest):
        raise NoChainError("its blocks return more than one tensor")
    return values


def check_alike(one: Sequence[BlockCall], other: Sequence[BlockCall]) -> None:
    """Raise `NoChainError` unless blocks take the same beside the values in both."""
    for index, (a, b) in enumerate(zip(one, other, strict=True)):
        given, others = (tree_flatten((call.more, call.named))[0] for call in (a, b))
        if not same(given, others):
            raise NoChainError(f"block {index} takes more than values, which rows differ in")
        if any(isinstance(v, torch.Tensor) and v.requires_grad for v in given):
            raise NoChainError(f"block {index} takes more than values, which is trained")
