"""Operations and memory of a chain of layers, traced with fake tensors.

Each layer runs forward and backward on tensors without values (`FakeTensorMode`). Counted are its
parameters, the FLOPs of its matrix products and attention (`FlopCounterMode`), and the bytes that
autograd saves for the backward (saved-tensor hooks).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from parplan.backend.models.chain import LossFunction
from parplan.errors import ParplanError


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTrace:
    """One layer and one micro-batch."""

    kind: str
    """The name of its class."""
    parameters: int
    """Those that an earlier layer has as well (tied ones) are not counted again."""
    parameter_bytes: int
    forward_flops: int
    """Of matrix products and attention, two per multiplication and addition."""
    backward_flops: int
    saved_bytes: int
    """Kept from forward to backward beside the parameters. What two layers keep counts once."""
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTrace:
    """All layers of a chain, the last one with the loss."""

    layers: tuple[LayerTrace, ...]
    input_shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters of the whole chain."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """FLOPs of a forward and a backward."""
        return sum(layer.forward_flops + layer.backward_flops for layer in self.layers)

    @property
    def saved_bytes(self) -> int:
        """Kept by one micro-batch at the end of its forward."""
        return sum(layer.saved_bytes for layer in self.layers)


def trace_chain(
    layers: Sequence[nn.Module],
    loss_fn: LossFunction,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    mode: FakeTensorMode | None = None,
) -> ChainTrace:
    """Trace `layers` and the loss on one micro-batch.

    `mode`: that under which layers, inputs and targets were made, if they are fake already; real
    ones are taken as they are, and nothing is computed with them. Gradients stay as they are.
    Raises `ParplanError` naming the layer that fails or returns anything but one tensor.
    """
    mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
    held: dict[int, torch.UntypedStorage] = {}
    counted: set[int] = set()
    found = []
    with mode, torch.enable_grad():
        values, wanted = _fake(mode, inputs), _fake(mode, targets)
        for index, layer in enumerate(layers):
            last = index == len(layers) - 1
            own = _Trace(index, layer, held, counted)
            try:
                values = own.forward(values, (lambda x: loss_fn(x, wanted)) if last else None)
                found.append(own.backward())
            except ParplanError:
                raise
            except Exception as error:
                raise _untraceable(index, layer, values, error) from error
    return ChainTrace(layers=tuple(found), input_shape=tuple(inputs.shape))


def flop_counter() -> FlopCounterMode:
    """A counter of FLOPs that knows more than torch's own registry.

    Attention kernels of CPUs, and products of tokens sorted by expert.
    """
    aten = torch.ops.aten
    extra: dict[Any, Callable[..., int]] = {
        aten._grouped_mm: _grouped_flops,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    others = torch.ops.transformers
    if hasattr(others, "grouped_mm_fallback_backward"):
        extra[others.grouped_mm_fallback] = _grouped_flops
        extra[others.grouped_mm_fallback_backward] = _grouped_backward_flops
    return FlopCounterMode(display=False, custom_mapping=extra)


def _grouped_flops(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of a product per group; groups split the rows, or the inner dimension of gradients."""
    groups = left[0] if len(left) == 3 and len(right) == 2 else 1
    return int(2 * prod(left) * right[-1] // groups)


def _grouped_backward_flops(values: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """Two for each product of the forward."""
    return 2 * _grouped_flops(values, weight)


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of the whole score matrix, masked or not, from shapes (batch, heads, tokens, size)."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(
    gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    """Two for each product of the forward: what is recomputed of it is not counted."""
    return 2 * int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


class _Trace:
    """One layer while it is traced."""

    def __init__(
        self, index: int, layer: nn.Module, held: dict[int, torch.UntypedStorage], counted: set[int]
    ) -> None:
        self.index, self.layer, self.held = index, layer, held
        parameters = [p for p in layer.parameters() if id(p) not in counted]
        counted.update(map(id, parameters))
        # A weight is saved as itself or as a view of it.
        for parameter in parameters:
            self._hold(parameter)
        self.parameters = sum(p.numel() for p in parameters)
        self.parameter_bytes = sum(p.numel() * p.element_size() for p in parameters)
        self.saved_bytes = 0

    def forward(
        self, values: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> torch.Tensor:
        """Call the layer and detach its output from its graph."""
        values = values.detach()
        if values.is_floating_point():
            values.requires_grad_()
        flops = flop_counter()
        with flops, saved_tensors_hooks(self._keep, lambda tensor: tensor):
            output = self.layer(values)
            if not isinstance(output, torch.Tensor):
                raise ParplanError(
                    f"layer {self.index}: {type(self.layer).__name__} returns a "
                    f"{type(output).__name__}; layers of a chain pass one tensor on"
                )
            self.end = output if loss is None else loss(output)
        self.forward_flops = flops.get_total_flops()
        self.output_bytes = self.end.numel() * self.end.element_size()
        return output.detach()

    def backward(self) -> LayerTrace:
        """The trace, complete."""
        flops = flop_counter()
        parameters = [p for p in self.layer.parameters() if p.requires_grad]
        gradients = [p.grad for p in parameters]
        if self.end.requires_grad:
            with flops:
                torch.autograd.backward(self.end, torch.ones_like(self.end))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return LayerTrace(
            kind=type(self.layer).__name__,
            parameters=self.parameters,
            parameter_bytes=self.parameter_bytes,
            forward_flops=self.forward_flops,
            backward_flops=flops.get_total_flops(),
            saved_bytes=self.saved_bytes,
            output_bytes=self.output_bytes,
        )

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self.saved_bytes += self._hold(tensor)
        return tensor

    def _hold(self, tensor: torch.Tensor) -> int:
        """Return the bytes of a tensor, or 0 if it was counted already.

        It is kept alive, so that no other tensor gets its identity.
        """
        storage = tensor.untyped_storage()
        known = storage._cdata in self.held
        self.held[storage._cdata] = storage
        return 0 if known else storage.nbytes()


def _fake(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    return mode.from_tensor(tensor)


def _untraceable(index: int, layer: nn.Module, values: Any, error: Exception) -> ParplanError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        lines = [f"what it does depends on the values of its inputs ({error.func})"]
    return ParplanError(
        f"layer {index} ({type(layer).__name__}) cannot be traced on inputs of shape "
        f"{tuple(values.shape)}: {lines[0]}"
    )
