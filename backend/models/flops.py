"""Floating point operations of models, counted while they run once, and peaks of GPUs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from parplan.backend.models.chain import evaluating
from parplan.hardware.machines.presets import accelerator_preset

BACKWARD = 2
"""Operations of a backward for each one of the forward: gradients of inputs and of weights."""

PRESETS = {
    "H100 80GB HBM3": "h100-sxm",
    "H100 PCIe": "h100-pcie",
    "H100 NVL": "h100-nvl",
    "H200": "h200",
    "A100-SXM4-80GB": "a100-sxm-80gb",
    "A100-SXM4-40GB": "a100-sxm-40gb",
    "A100 80GB PCIe": "a100-pcie-80gb",
    "A100-PCIE-40GB": "a100-pcie-40gb",
}
"""Parts of the names that CUDA gives, and the presets whose peak rates they have."""


def is_compiled(model: nn.Module) -> bool:
    """Whether any part of it is compiled, which counts nothing."""
    return any(
        m._compiled_call_impl is not None or type(m).__name__ == "OptimizedModule"
        for m in model.modules()
    )


class Counted:
    """Operations of a training step for each value of its first input."""

    def __init__(self) -> None:
        self.each: float | None = None

    @contextlib.contextmanager
    def forward_of(self, model: nn.Module, first: torch.Tensor) -> Iterator[None]:
        """Count products of matrices, convolutions and attention of a forward in the body.

        Recomputation is not counted, as MFU has it. Nothing where the model is compiled.
        """
        if self.each is not None or is_compiled(model) or not first.numel():
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        total = float(counter.get_total_flops())
        self.each = (1 + BACKWARD) * total / first.numel() if total else None

    def row(self, model: nn.Module, forward: Callable[..., Any], *batch: torch.Tensor) -> None:
        """Count on the first row of a batch."""
        like = next(model.parameters(), torch.empty(0))
        row = [part[:1].to(like.device) for part in batch]
        with torch.no_grad(), evaluating(model), self.forward_of(model, row[0]):
            forward(*row)


def peak_flop_per_s(device: torch.device) -> float | None:
    """What a GPU computes at most in bf16; None for a CPU and one that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    preset = next((preset for part, preset in PRESETS.items() if part in name), None)
    return None if preset is None else accelerator_preset(preset).peak_flop_per_s.of("bf16")
