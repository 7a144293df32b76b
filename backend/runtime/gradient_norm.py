"""Global gradient norm over all processes of a plan.

`torch.nn.utils.clip_grad_norm_` sees the gradients of its own process alone. Once a model is
planned, the norm that it computes (and `torch.nn.utils.get_total_norm`) is that of the whole model.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad

from parplan.backend.runtime.pipeline import PipelineStep

_PLANNED: "WeakSet[PipelineStep]" = WeakSet()
_OWN: dict[str, Callable[..., torch.Tensor]] = {}


def share_norms(step: PipelineStep) -> None:
    """Let the norm of gradients be that of the whole model of `step`, for as long as it lives."""
    if step.plan.num_devices == 1:
        return
    _PLANNED.add(step)
    if not _OWN:
        _OWN["norm"] = clip_grad._get_total_norm
        clip_grad._get_total_norm = _get_total_norm
        # The same function under its public name.
        nn.utils.get_total_norm = _get_total_norm


@torch.no_grad()
def _get_total_norm(
    tensors: Any,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Norm of all gradients, as torch computes it.

    All processes call it, those without gradients too.
    """
    given = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
    for step in list(_PLANNED):
        parameters = {id(p.grad): p for p in step.parameters() if p.grad is not None}
        if not given or any(id(tensor) in parameters for tensor in given):
            found = [(parameters[id(t)], t) for t in given if id(t) in parameters]
            norm = whole_norm(step, found, float(norm_type))
            if error_if_nonfinite and not norm.isfinite():
                raise RuntimeError(f"the norm of the gradients (order {norm_type}) is not finite")
            return norm
    return _OWN["norm"](given, norm_type, error_if_nonfinite, foreach)


def whole_norm(
    step: PipelineStep,
    gradients: Iterable[tuple[nn.Parameter, torch.Tensor]],
    norm_type: float,
) -> torch.Tensor:
    """The norm over all processes, of this one's parameters with their gradients."""
    held = step.tied.holders()
    total = torch.zeros((), dtype=torch.float64, device=step.device)
    for parameter, gradient in gradients:
        norm = torch.linalg.vector_norm(_local(parameter, gradient), norm_type).double()
        if math.isinf(norm_type):
            total = torch.maximum(total, norm)
        else:
            copies = _copies(step, parameter) * held.get(id(parameter), 1)
            total = total + norm**norm_type / copies
    if math.isinf(norm_type):
        dist.all_reduce(total, dist.ReduceOp.MAX)
    else:
        dist.all_reduce(total)
        total = total ** (1 / norm_type)
    return total.to(next(step.parameters()).dtype)


def _local(parameter: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
    """This process's part of a gradient, reduced as its parameter is laid out."""
    if not isinstance(gradient, DTensor):
        return gradient
    assert isinstance(parameter, DTensor)
    if gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient.to_local()


def _copies(step: PipelineStep, parameter: nn.Parameter) -> int:
    """The number of processes of one stage that hold the same part."""
    copies = step.plan.replicas * step.plan.tensor_parallel
    if isinstance(parameter, DTensor):
        for dimension, placement in enumerate(parameter.placements):
            if placement.is_shard():
                copies //= parameter.device_mesh.size(dimension)
    return copies
