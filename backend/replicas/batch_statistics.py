"""BatchNorm whose statistics are those of all rows of a batch, wherever they are computed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from parplan.backend.models.flops import is_compiled


def normalised_by_batch(model: nn.Module) -> list[_BatchNorm]:
    """The modules that take statistics of a batch now."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]


def can_be_shared(model: nn.Module) -> bool:
    """Whether `shared_statistics` reaches all of them: not where they are compiled."""
    return not is_compiled(model) and not any(
        isinstance(m, nn.SyncBatchNorm) for m in model.modules()
    )


@contextlib.contextmanager
def shared_statistics(model: nn.Module) -> Iterator[None]:
    """In the body statistics are those of the rows of all processes together."""
    changed = [m for m in normalised_by_batch(model) if "forward" not in vars(m)]
    for module in changed:
        module.forward = _Shared(module)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for module in changed:
            del module.forward


class _Shared:
    """The forward of one module."""

    def __init__(self, module: _BatchNorm) -> None:
        self.module = module

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        module = self.module
        module._check_input_dim(values)  # type: ignore[no-untyped-call]
        wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        along = [dim for dim in range(values.dim()) if dim != 1]
        shape = [1, -1, *[1] * (values.dim() - 2)]
        own = wide.new_tensor([wide.numel() // wide.shape[1]])
        count = _Total.apply(own)  # type: ignore[no-untyped-call]
        mean = _Total.apply(wide.sum(along)) / count  # type: ignore[no-untyped-call]
        centred = wide - mean.view(shape)
        variance = _Total.apply(centred.square().sum(along)) / count  # type: ignore[no-untyped-call]
        self._remember(mean.detach(), variance.detach(), float(count))
        found = centred * (variance + module.eps).rsqrt().view(shape)
        if module.affine:
            found = found * module.weight.view(shape) + module.bias.view(shape)
        result: torch.Tensor = found.to(values.dtype)
        return result

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: float) -> None:
        """Running statistics, as torch keeps them."""
        module = self.module
        if module.running_mean is None or module.running_var is None:
            return
        factor = 0.0 if module.momentum is None else module.momentum
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
            if module.momentum is None:
                factor = 1.0 / float(module.num_batches_tracked)
        unbiased = variance * (count / max(1.0, count - 1.0))
        module.running_mean.lerp_(mean.to(module.running_mean.dtype), factor)
        module.running_var.lerp_(unbiased.to(module.running_var.dtype), factor)


class _Total(torch.autograd.Function):
    """The sum over all processes, and of the gradients."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        total = own.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        total = outer[0].clone()
        dist.all_reduce(total)
        return total
