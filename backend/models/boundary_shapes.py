"""Shapes and types of the tensors between pipeline stages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from parplan.errors import ParplanError
from parplan.sim.plan import Plan


def boundary_shapes(stages: Sequence[nn.Module], example: torch.Tensor) -> list[torch.Tensor]:
    """What goes into each stage and out of the last one, on the meta device.

    Raises `ParplanError` naming the stage that fails or returns anything but one tensor.
    """
    shapes = [example.to("meta")]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        values: Any = mode.from_tensor(example)
        for index, stage in enumerate(stages):
            try:
                values = stage(values)
            except Exception as error:
                text = str(error).strip().splitlines()
                raise ParplanError(
                    f"stage {index}: fails on inputs of shape {tuple(shapes[-1].shape)}: "
                    f"{text[0] if text else type(error).__name__}"
                ) from error
            if not isinstance(values, torch.Tensor):
                raise ParplanError(
                    f"stage {index}: a pipeline passes one tensor between layers, "
                    f"got {type(values).__name__}"
                )
            meta = torch.empty_strided(
                values.shape, values.stride(), dtype=values.dtype, device="meta"
            )
            shapes.append(meta)
    for shape in shapes[1:]:
        shape.requires_grad_()
    return shapes


def part_shapes(shapes: Sequence[torch.Tensor], plan: Plan) -> list[torch.Tensor]:
    """Of `boundary_shapes`, the parts that one rank has of values (batch, sequence, features)."""
    ranks, last = plan.tensor_parallel, len(shapes) - 1
    found = []
    for index, shape in enumerate(shapes):
        size = list(shape.shape)
        if index == last:
            size[-1] //= ranks
        elif index > 0 and plan.sequence_parallel:
            size[1] //= ranks
        found.append(shape.new_empty(size).requires_grad_(shape.requires_grad))
    return found
