"""torch's gradient scaler over a plan, whose backward runs before the script scales the loss.

The scale that the script's `GradScaler` will ask for goes into the backward, so that gradients in
fp16 neither vanish nor grow too large where those of one process would not. What one process finds
to be infinite is infinite for all, so that they skip the same steps.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from parplan.backend.runtime.pipeline import Planned


def halves_in_use(step: Planned) -> bool:
    """Whether anything is computed in fp16."""
    kind = step.device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
        return True
    return any(p.dtype == torch.float16 for p in step.parameters())


class ScaleToCome:
    """The scale that the loss of a step will be given."""

    def __init__(self, step: Planned) -> None:
        self.step = step
        self._scaler: weakref.ref[GradScaler] | None = None
        share_infinities(step)

    def __call__(self) -> float:
        """The scaler's, if there is one and fp16 is in use; else 1."""
        if not halves_in_use(self.step):
            return 1.0
        scaler = self._scaler() if self._scaler is not None else None
        if scaler is None:
            found = [one for one in gc.get_objects() if _is_scaler(one)]
            if len(found) != 1:
                return 1.0
            scaler = found[0]
            self._scaler = weakref.ref(scaler)
        return float(scaler.get_scale())


def _is_scaler(value: Any) -> bool:
    # Not isinstance, which asks proxies of lazily imported modules for what they stand for.
    return GradScaler in type(value).__mro__ and value.is_enabled()


_PLANNED: "weakref.WeakSet[Planned]" = weakref.WeakSet()
_OWN: dict[str, Callable[..., Any]] = {}


def share_infinities(step: Planned) -> None:
    """Let all processes of `step` skip the steps that one of them has to skip."""
    if step.plan.num_devices == 1:
        return
    _PLANNED.add(step)
    if not _OWN:
        _OWN["unscale"] = GradScaler._unscale_grads_
        GradScaler._unscale_grads_ = _unscale  # type: ignore[method-assign, assignment]


def _unscale(self: GradScaler, optimizer: Optimizer, *settings: Any) -> dict[torch.device, Any]:
    """As torch's, for gradients that other processes have as well."""
    found: dict[torch.device, Any] = _OWN["unscale"](self, optimizer, *settings)
    for step in list(_PLANNED):
        if step.is_of(optimizer):
            total = torch.zeros((), device=step.device)
            for value in found.values():
                total = torch.maximum(total, value.to(step.device).squeeze())
            dist.all_reduce(total, dist.ReduceOp.MAX)
            for value in found.values():
                value.fill_(total)
            # A process without gradients has to skip as well.
            found.setdefault(step.device, total)
            break
    return found
