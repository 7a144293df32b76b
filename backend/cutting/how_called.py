"""How a training script calls a model: its inputs, its targets, and the loss that comes back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from parplan.backend.models.chain import NoChainError
from parplan.errors import ParplanError

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Absent:
    """An output that is on another process; any use of it is an error in one line."""

    def __init__(self) -> None:
        self._refuse = (
            "only the loss of a model under a pipeline is on every process, not its other "
            "outputs; pipeline_parallel=False keeps them"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself asks for, as copying does
            raise AttributeError(name)
        raise ParplanError(self._refuse)

    def _any(self, *given: Any) -> Any:
        raise ParplanError(self._refuse)

    __getitem__ = __len__ = __iter__ = __add__ = __mul__ = __sub__ = __truediv__ = _any
    __float__ = __int__ = __bool__ = __radd__ = __rmul__ = __rsub__ = _any

    @classmethod
    def __torch_function__(cls, *given: Any) -> Any:
        return cls()._any()


class HowCalled:
    """Which argument of a call are the inputs and which the targets, and where the loss is."""

    def __init__(self, call: Call, swapped: bool, outputs: Any) -> None:
        leaves, self.spec = tree_flatten(call)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        if len(places) != 2:
            raise NoChainError(f"called with {len(places)} tensors, not inputs and targets alone")
        rows = leaves[places[0]].shape[:1]
        for value in (
            *call[0],
            *call[1].values(),
            *(v for d in call[0] if isinstance(d, dict) for v in d.values()),
        ):
            if isinstance(value, list | tuple) and (len(value),) == tuple(rows):
                raise NoChainError("called with a list that has an item for each row")
        self.places = (places[1], places[0]) if swapped else (places[0], places[1])
        self.rest = [None if i in places else leaf for i, leaf in enumerate(leaves)]
        found, self.outputs = tree_flatten(outputs)
        losses = [i for i, leaf in enumerate(found) if _is_loss(leaf)]
        if len(losses) != 1:
            raise NoChainError("it does not return one loss, a number, among its outputs")
        self.loss_at = losses[0]
        self.shape: torch.Size | None = None
        """Of one row of the inputs, where blocks take what depends on it."""
        self.found = [Absent() if isinstance(leaf, torch.Tensor) else leaf for leaf in found]

    def __deepcopy__(self, memo: Any) -> "HowCalled":
        return self  # the same for all copies

    @property
    def loss_alone(self) -> bool:
        """Whether the model returns nothing else that was computed."""
        return sum(isinstance(leaf, Absent) for leaf in self.found) == 1

    def tensors(self, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """Inputs and targets of a call; raises `NoChainError` for a call of another form."""
        leaves, spec = tree_flatten((given, named))
        inputs, targets = (leaves[place] if place < len(leaves) else None for place in self.places)
        others = [None if i in self.places else leaf for i, leaf in enumerate(leaves)]
        alike = spec == self.spec and same(others, self.rest)
        if not (isinstance(inputs, torch.Tensor) and isinstance(targets, torch.Tensor) and alike):
            raise NoChainError(
                "a model under a pipeline is called as at its first call, with inputs and "
                "targets, and returns the loss"
            )
        if self.shape is not None and inputs.shape[1:] != self.shape:
            raise NoChainError(
                f"inputs of shape {tuple(inputs.shape)}: under a pipeline blocks take what belongs "
                f"to rows of shape {tuple(self.shape)}, as at the first call"
            )
        if not targets.is_floating_point() and bool((targets < 0).any()):
            raise NoChainError(
                "targets below zero are not counted by losses, and micro-batches need a mean "
                "over the rows"
            )
        return inputs, targets

    def call(self, inputs: torch.Tensor, targets: torch.Tensor) -> Call:
        """The call with these tensors."""
        leaves = list(self.rest)
        leaves[self.places[0]], leaves[self.places[1]] = inputs, targets
        found: Call = tree_unflatten(leaves, self.spec)
        return found

    def loss_of(self, outputs: Any) -> Any:
        """The loss among what the model returns."""
        return tree_flatten(outputs)[0][self.loss_at]

    def returned(self, loss: torch.Tensor) -> Any:
        """What the model returns, with the loss alone."""
        leaves: list[Any] = list(self.found)
        leaves[self.loss_at] = loss
        return tree_unflatten(leaves, self.outputs)


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether these are as many, equal, tensors by their values."""
    if len(one) != len(other):
        return False
    return all(
        (a.shape == b.shape and torch.equal(a, b)) if _both_tensors(a, b) else a is b or a == b
        for a, b in zip(one, other, strict=True)
    )


def _both_tensors(a: Any, b: Any) -> bool:
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)


def _is_loss(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() == 0 and leaf.is_floating_point()
