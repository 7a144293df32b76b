"""Shapes and types of the tensors between pipeline stages."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from parplan.backend.models.chain import evaluating
from parplan.errors import ParplanError
from parplan.sim.plan import Plan


def boundary_shapes(stages: Sequence[nn.Module], example: torch.Tensor) -> list[torch.Tensor]:
    """Return the shapes of the inputs of each stage and the outputs of the last one (meta device).

    Raises `ParplanError` naming the stage that fails or returns anything but one tensor.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        shapes, failure = _passed(stages, mode.from_tensor(example))
    fake = any(isinstance(p, FakeTensor) for stage in stages for p in stage.parameters())
    if failure is not None and not fake:
        # Some kernels know their shapes only when they run (experts in fp32 on a CPU).
        with contextlib.ExitStack() as stack, torch.no_grad():
            for stage in stages:
                stack.enter_context(evaluating(stage))
            shapes, failure = _passed(stages, example.to(_device(stages, example)))
    if failure is not None:
        raise failure
    for shape in shapes[1:]:
        shape.requires_grad_()
    return shapes


def _passed(
    stages: Sequence[nn.Module], values: Any
) -> tuple[list[torch.Tensor], ParplanError | None]:
    """What passes between the stages until one fails, and how that failed."""
    shapes = [_meta(values)]
    for index, stage in enumerate(stages):
        try:
            with _quiet():
                values = stage(values)
        except Exception as error:
            text = str(error).strip().splitlines()
            return shapes, ParplanError(
                f"stage {index}: fails on inputs of shape {tuple(shapes[-1].shape)}: "
                f"{text[0] if text else type(error).__name__}"
            )
        if not isinstance(values, torch.Tensor):
            return shapes, ParplanError(
                f"stage {index}: a pipeline passes one tensor between layers, "
                f"got {type(values).__name__}"
            )
        shapes.append(_meta(values))
    return shapes, None


def _meta(values: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")


def _device(stages: Sequence[nn.Module], example: torch.Tensor) -> torch.device:
    parameters = (p for stage in stages for p in stage.parameters())
    return next((p.device for p in parameters), example.device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's log of the traceback of what it cannot fake."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def part_shapes(shapes: Sequence[torch.Tensor], plan: Plan) -> list[torch.Tensor]:
    """The local part of `boundary_shapes` on one rank.

    For values (batch, sequence, features) between tokens (batch, sequence) and logits.
    """
    ranks, last = plan.tensor_parallel, len(shapes) - 1
    found = []
    for index, shape in enumerate(shapes):
        size = list(shape.shape)
        size[1] //= plan.context_parallel
        if index == last:
            size[-1] //= ranks
        elif index > 0 and plan.sequence_parallel:
            size[1] //= ranks
        found.append(shape.new_empty(size).requires_grad_(shape.requires_grad))
    return found
