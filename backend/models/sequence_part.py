"""Context parallelism of parplan's GPT layers: each rank has a part of every sequence.

Queries are of the rank's own tokens; keys and values are gathered from all ranks of the context
group before the attention, and their gradients are summed and scattered in the backward (the
all-gather variant of Llama 3, arXiv:2407.21783, section 3.3.2). Everything else is local.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from parplan.errors import ParplanError


class SequencePart:
    """The place of one rank along the sequence, and the group of all parts."""

    def __init__(self, group: dist.ProcessGroup, rank: int, count: int) -> None:
        self.group, self.rank, self.count = group, rank, count

    def __deepcopy__(self, memo: Any) -> "SequencePart":
        return self  # groups are not copied

    def start(self, length: int) -> int:
        """The place of the first of this rank's `length` tokens in the whole sequence."""
        return self.rank * length

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """This rank's part of whole sequences (batch, seq_len, ...)."""
        length = values.shape[1] // self.count
        return values[:, self.start(length) : self.start(length) + length].contiguous()

    def gathered(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole keys and values (batch, heads, own length, size), in one exchange."""
        both: torch.Tensor = _Gathered.apply(torch.stack([key, value]), self.group, self.count)  # type: ignore[no-untyped-call]
        return both[0], both[1]


class _Gathered(torch.autograd.Function):
    """(2, batch, heads, own length, size) -> (2, batch, heads, length, size)."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, group: dist.ProcessGroup, count: int) -> torch.Tensor:
        ctx.group, ctx.count = group, count
        own = own.contiguous()
        parts = own.new_empty(count * own.shape[0], *own.shape[1:])
        dist.all_gather_into_tensor(parts, own, group=group)
        return torch.cat(list(parts.view(count, *own.shape)), dim=3)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        parts = torch.cat(outer[0].chunk(ctx.count, dim=3))
        own = parts.new_empty(outer[0].shape[0], *parts.shape[1:])
        dist.reduce_scatter_tensor(own, parts, group=ctx.group)
        return own, None, None


def check_spreadable(layers: Sequence[nn.Module], ranks: int, tokens: torch.Tensor) -> None:
    """Raise `ParplanError` for layers that `spread` does not know, or an indivisible sequence."""
    for index, layer in enumerate(layers):
        if not layer.__module__.startswith("parplan.backend.models.gpt"):
            raise ParplanError(
                f"context_parallel: layer {index} is a {type(layer).__name__}; only the layers of "
                "parplan.backend.models.gpt can be spread over parts of a sequence"
            )
    if tokens.shape[1] % ranks:
        raise ParplanError(
            f"plan: context_parallel {ranks} does not divide sequences of {tokens.shape[1]}"
        )


def spread(layers: Iterable[nn.Module], part: SequencePart) -> None:
    """Let layers of the GPT take this rank's part of the sequence."""
    for layer in layers:
        for module in layer.modules():
            if hasattr(type(module), "part"):
                module.part = part  # type: ignore[assignment]
