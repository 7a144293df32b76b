"""The model of a training script, and the call that it is first trained by."""

import contextlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from parplan.backend.cutting.how_called import Call
from parplan.errors import ParplanError

PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16"}


class CaughtCall(NamedTuple):
    """A model, and the arguments of a call of it."""

    model: nn.Module
    call: Call
    precision: str
    """That of its parameters, or of the autocast around the call."""


class _Caught(BaseException):
    """Ends a script at the first call of its model."""

    def __init__(self, found: CaughtCall) -> None:
        super().__init__()
        self.found = found


def caught_in_script(script: Path, arguments: Sequence[str] = ()) -> CaughtCall:
    """Run a script until it first calls a module with gradients enabled, and no further.

    With the one line or without it; in one process. Raises `ParplanError` for a script that is
    not there, fails before, or calls none.
    """
    if not script.is_file():
        raise ParplanError(f"{script}: there is no such script")
    hook = register_module_forward_pre_hook(_catch)
    try:
        with _started_as(script, arguments):
            runpy.run_path(str(script), run_name="__main__")
    except _Caught as caught:
        return caught.found
    except SystemExit as error:
        if error.code not in (None, 0):
            raise ParplanError(f"{script}: ended ({error.code}) before it trained") from None
    except ParplanError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ParplanError(
            f"{script}: failed before it trained: {type(error).__name__}: {lines[0]}"
        ) from error
    finally:
        hook.remove()
    raise ParplanError(f"{script}: calls no model with parameters and gradients enabled")


def _catch(module: nn.Module, given: Any) -> None:
    """Take the outermost module that is trained; `given` has arguments by position alone."""
    if not torch.is_grad_enabled() or not any(p.requires_grad for p in module.parameters()):
        return
    # The frame of this module's __call__ has the arguments by name as well.
    frame = sys._getframe(1)
    while frame is not None and frame.f_locals.get("self") is not module:
        frame = frame.f_back  # type: ignore[assignment]
    named = frame.f_locals.get("kwargs", {}) if frame is not None else {}
    inner = getattr(module, "_orig_mod", module)
    model: nn.Module = getattr(inner, "module", inner)
    raise _Caught(CaughtCall(model, (tuple(given), dict(named)), _precision(model)))


def _precision(model: nn.Module) -> str:
    parameter = next(model.parameters())
    dtype, kind = parameter.dtype, parameter.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return PRECISIONS.get(dtype, "fp32")


@contextlib.contextmanager
def _started_as(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """As if Python had been started with the script."""
    before = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before
