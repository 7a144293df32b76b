"""Rows of a batch taken apart and put together again, with their gradients.

A replica's backward gives gradients as many times as large as there are replicas, because they are
averaged afterwards.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from parplan.errors import ParplanError


class BackwardOnce:
    """Refuses backwards whose gradients would not be those of all replicas."""

    def __init__(self, parameter: nn.Parameter | None) -> None:
        """`parameter`: one that is trained; None where they are sharded, and torch asks itself."""
        self.accumulation: Any = None
        """Of the gradient of that parameter."""
        if parameter is not None:
            with torch.enable_grad():
                function: Any = parameter.view_as(parameter).grad_fn
            self.accumulation = function.next_functions[0][0]

    def __call__(self, ctx: Any) -> None:
        """Raise `ParplanError` for `torch.autograd.grad`, and for the second time of `ctx`."""
        if not self._whole_backward():
            raise ParplanError(
                "torch.autograd.grad through a parallelised model gives the gradients of a part of "
                "the batch; call backward() of the loss"
            )
        if getattr(ctx, "done", False):
            raise ParplanError(
                "a second backward through one call of a parallelised model: gradients are "
                "reduced over the processes once; add the losses, and call backward() of the sum"
            )
        ctx.done = True

    def _whole_backward(self) -> bool:
        """Whether gradients of parameters are added up now.

        torch raises where they are asked for by `torch.autograd.grad`.
        """
        if self.accumulation is None:
            return True
        try:
            return bool(torch._C._will_engine_execute_node(self.accumulation))
        except RuntimeError as error:
            if "autograd.grad" not in str(error):
                raise
            return False


class AllRows(torch.autograd.Function):
    """The rows of all replicas; the backward takes this one's."""

    @staticmethod
    def forward(
        ctx: Any, own: torch.Tensor, dim: int, sizes: list[int], rank: int, once: BackwardOnce
    ) -> torch.Tensor:
        """Rows along dimension `dim`, so many of each replica."""
        ctx.dim, ctx.sizes, ctx.rank, ctx.once = dim, sizes, rank, once
        return gathered(own, dim, sizes)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        """The gradient of this replica's rows."""
        ctx.once(ctx)
        own = torch.split(outer[0], ctx.sizes, ctx.dim)[ctx.rank] * len(ctx.sizes)
        return own, None, None, None, None


class WeightedSum(torch.autograd.Function):
    """A value of all replicas by their weights; the backward takes this one's part."""

    @staticmethod
    def forward(
        ctx: Any, own: torch.Tensor, weight: float, count: int, once: BackwardOnce
    ) -> torch.Tensor:
        """The sum over so many replicas, of which this one has this weight."""
        ctx.factor, ctx.once = weight * count, once
        total = own.detach() * weight
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        """The gradient of this replica's value."""
        ctx.once(ctx)
        return outer[0] * ctx.factor, None, None, None


class OwnRows(torch.autograd.Function):
    """This replica's rows of an input; the backward has the gradient of all rows."""

    @staticmethod
    def forward(
        ctx: Any, whole: torch.Tensor, dim: int, sizes: list[int], rank: int
    ) -> torch.Tensor:
        """Rows along dimension `dim`."""
        ctx.dim, ctx.sizes = dim, sizes
        return torch.split(whole, sizes, dim)[rank].clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        """The gradient of all rows, on every replica."""
        return gathered(outer[0], ctx.dim, ctx.sizes) / len(ctx.sizes), None, None, None


class SameInput(torch.autograd.Function):
    """An input that all replicas take whole."""

    @staticmethod
    def forward(ctx: Any, whole: torch.Tensor, count: int) -> torch.Tensor:
        """The input of so many replicas."""
        ctx.count = count
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        """Its gradient by the rows of all."""
        total = outer[0].clone()
        dist.all_reduce(total)
        return total / ctx.count, None


def gathered(own: torch.Tensor, dim: int, sizes: Sequence[int]) -> torch.Tensor:
    """Rows of all replicas along a dimension, so many of each."""
    first = own.detach().movedim(dim, 0)
    padded = first.new_zeros(max(sizes), *first.shape[1:])
    padded[: len(first)] = first
    everyone = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyone, padded)
    whole = torch.cat([part[:n] for part, n in zip(everyone, sizes, strict=True)])
    return whole.movedim(0, dim)
