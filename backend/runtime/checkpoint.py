"""Distributed checkpoints that can be loaded under another plan.

Tensors are stored under the names of the whole model by torch.distributed.checkpoint, so that they
can be read back by another plan, by more or fewer processes, or by a script without a plan.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from parplan.backend.runtime.whole_state import laid_out, own_tensors, rows_of
from parplan.backend.workers.meeting import Intent, meet, uncounted
from parplan.backend.workers.processes import agree, is_first
from parplan.errors import ParplanError, RunFailedError

MORE = "more.pt"
"""What is not a tensor of the model or of its optimizer; written by the first process."""


def save_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer | None = None, **more: Any
) -> None:
    """Save the model, its optimizer, and `more`.

    more: schedulers and other objects with a `state_dict`, numbers and strings.

    All processes call it; an older checkpoint is replaced once the new one is complete. Raises
    `RunFailedError` on all of them where it cannot be written, as on a full disk.
    """
    meet(Intent.CHECKPOINT)
    folder = Path(folder)
    part = folder.with_name(f"{folder.name}.part")
    if is_first():
        shutil.rmtree(part, ignore_errors=True)
    _wait()
    whole = dict(_tensors(model, optimizer, gathered=True))
    try:
        save(whole, checkpoint_id=part)
    except CheckpointException as error:
        raise _not_written(folder, part, next(iter(error.failures.values()))[0]) from error

    def complete() -> None:
        groups = _groups(optimizer) if optimizer else []
        states = {name: _state(value) for name, value in more.items()}
        try:
            torch.save({"groups": groups, "more": states}, part / MORE)
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        except (OSError, RuntimeError) as error:  # torch writes archives by code of its own
            raise _not_written(folder, part, error) from error

    agree(complete)


def _not_written(folder: Path, part: Path, error: BaseException) -> RunFailedError:
    """The reason in one line; what was written so far is removed."""
    if is_first():
        shutil.rmtree(part, ignore_errors=True)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kept = "; the older one is kept" if folder.exists() else ""
    return RunFailedError(f"{folder}: the checkpoint cannot be written: {lines[0]}{kept}")


def load_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer | None = None, **more: Any
) -> dict[str, Any]:
    """Load what `save_checkpoint` saved into the model, the optimizer and the objects of `more`.

    Returns the other values under their names. All processes call it. Raises `ParplanError` for a
    folder that is none, or of another model.
    """
    meet(Intent.CHECKPOINT)
    folder = Path(folder)
    table = agree(lambda: _read(folder))
    if optimizer is not None:
        _make_states(optimizer, model)
    tensors = dict(_tensors(model, optimizer, gathered=True))
    try:
        load(tensors, checkpoint_id=folder)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ParplanError(f"{folder}: not of this model: {lines[-1].strip()}") from error
    with torch.no_grad():
        for key, own in _tensors(model, optimizer, gathered=False):
            _put(own, tensors[key], _rows(model, key))
    if optimizer is not None:
        for group, saved in zip(optimizer.param_groups, table["groups"], strict=True):
            group.update(saved)
    for name, value in more.items():
        if name not in table["more"]:
            raise ParplanError(f"{folder}: has no {name}; it has {', '.join(table['more'])}")
        if hasattr(value, "load_state_dict"):
            value.load_state_dict(table["more"][name])
    return {name: value for name, value in table["more"].items() if name not in more}


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(folder / MORE, weights_only=True)
    except FileNotFoundError:
        raise ParplanError(f"{folder}: not a checkpoint: there is no {MORE}") from None
    return found


def _tensors(
    model: nn.Module, optimizer: Optimizer | None, *, gathered: bool
) -> Iterator[tuple[str, Any]]:
    """Parameters, buffers and optimizer state of this process by name.

    gathered: rows that tensor parallelism has reordered as the whole model has them.
    """
    names: dict[int, str] = {}
    for name, first_name, tensor in own_tensors(model):
        names.setdefault(id(tensor), first_name)
        if isinstance(tensor, torch.Tensor):
            yield f"model.{name}", _whole(model, name, tensor.detach(), gathered)
    if optimizer is None:
        return
    for parameter, state in optimizer.state.items():
        own = names.get(id(parameter))
        if own is None:  # of a layer that another process has
            continue
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                whole = value.shape == parameter.shape
                yield (
                    f"optimizer.{own}.{key}",
                    _whole(model, own, value, gathered) if whole else value,
                )


def _whole(model: nn.Module, name: str, tensor: torch.Tensor, gathered: bool) -> torch.Tensor:
    rows = rows_of(model, name, prefixes=True) if gathered else None
    if rows is None or not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor()[rows.argsort()].contiguous()


def _put(own: torch.Tensor, loaded: torch.Tensor, rows: torch.Tensor | None) -> None:
    """Copy what was loaded into `own`, unless it was loaded in place."""
    if rows is not None and isinstance(own, DTensor):
        own.copy_(laid_out(loaded, own, rows))


def _rows(model: nn.Module, key: str) -> torch.Tensor | None:
    kind, _, name = key.partition(".")
    return rows_of(model, name, prefixes=kind == "optimizer")


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Learning rates and the like."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def _state(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


def _make_states(optimizer: Optimizer, model: nn.Module) -> None:
    """Let the optimizer make the state of this process's parameters, which stay as they are."""
    missing = [p for p in model.parameters() if p.requires_grad and p not in optimizer.state]
    if not missing:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    gradients = [(p, p.grad) for g in optimizer.param_groups for p in g["params"]]
    for parameter, _ in gradients:
        parameter.grad = None
    for parameter in missing:
        parameter.grad = torch.zeros_like(parameter)
    try:
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros_like(group["lr"]) if torch.is_tensor(group["lr"]) else 0.0
        # Past the counting of steps that schedulers wrap around it.
        with uncounted():
            type(optimizer).step(optimizer)
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
