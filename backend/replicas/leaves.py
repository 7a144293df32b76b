"""What calls and outputs of models consist of: tensors, numbers and lists, wherever they are.

Beyond what torch's pytree knows (dictionaries, lists, tuples, outputs of Hugging Face) these are
the attributes of dataclasses and of other plain objects that hold tensors.
"""

import copy
import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

DEEPEST = 4
"""Objects in objects; what lies deeper is left alone."""

PLAIN = (str, bytes, bool, int, float, complex, type(None))


def is_list_of_values(value: Any) -> bool:
    """Whether this is a list of numbers or texts, of which each row of a batch may have one."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(item, PLAIN) for item in value)


def map_leaves(change: Callable[[Any], Any], value: Any, depth: int = 0) -> Any:
    """The same with every tensor, number and list of numbers or texts changed.

    Objects that hold tensors are copied, not written to.
    """
    leaves, spec = tree_flatten(value, is_leaf=is_list_of_values)
    return tree_unflatten([_changed(change, leaf, depth) for leaf in leaves], spec)


def leaves_of(value: Any) -> list[Any]:
    """All of them in their order."""
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_leaves(keep, value)
    return found


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors among them."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, torch.Tensor)]


def checksum_of_values(value: Any) -> int:
    """A number of what is not in tensors: numbers, texts, and lists of them."""
    plain = [leaf for leaf in leaves_of(value) if isinstance(leaf, (*PLAIN, list, tuple))]
    return zlib.crc32(repr(plain).encode())


def _changed(change: Callable[[Any], Any], leaf: Any, depth: int) -> Any:
    if depth >= DEEPEST or not _holds_tensors(leaf, depth):
        return change(leaf)
    found = copy.copy(leaf)
    for name in _fields(leaf):
        value = map_leaves(change, getattr(leaf, name), depth + 1)
        object.__setattr__(found, name, value)
    return found


def _fields(leaf: Any) -> list[str]:
    if isinstance(leaf, (*PLAIN, torch.Tensor, nn.Module, type)) or callable(leaf):
        return []
    if dataclasses.is_dataclass(leaf):
        return [field.name for field in dataclasses.fields(leaf) if hasattr(leaf, field.name)]
    return list(getattr(leaf, "__dict__", ()))


def _holds_tensors(leaf: Any, depth: int) -> bool:
    if depth >= DEEPEST:
        return False
    for name in _fields(leaf):
        for inner in tree_flatten(getattr(leaf, name))[0]:
            if isinstance(inner, torch.Tensor) or _holds_tensors(inner, depth + 1):
                return True
    return False
