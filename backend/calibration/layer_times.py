"""Measured times of each layer of a chain, all processes at once.

Layers are timed alone, forward and backward, never a plan's own step. Equal layers are timed once.
Repetitions go round all configurations, so that a slow moment of the machine hits them alike, and
the median counts.
"""

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from parplan.backend.models.boundary_shapes import boundary_shapes
from parplan.backend.models.chain import LossFunction
from parplan.backend.models.recompute import LINEAR_PRODUCTS, recomputed
from parplan.backend.runtime.pipeline import StageModule
from parplan.sim.plan import Recomputation

REPETITIONS = 7

TOGETHER = 12
"""Layers whose activations are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """One layer and one micro-batch."""

    forward_s: float
    backward_s: float
    """With recomputation, adding to gradients that exist."""
    first_backward_s: float
    """The same, creating them."""
    saved_bytes: float
    """Kept from forward to backward."""
    output_bytes: float


class LayerSetting(NamedTuple):
    """The inputs on which the costs of a layer depend."""

    batch_per_device: int
    recomputation: Recomputation


class _Probe:
    """One layer ready to be timed in one setting."""

    def __init__(
        self,
        layer: nn.Module,
        loss: Callable[[torch.Tensor], torch.Tensor] | None,
        values: torch.Tensor,
        level: Recomputation,
    ) -> None:
        self.module = recomputed(layer, level)
        self.loss = loss
        self.values = values
        self.level = level
        self.output: torch.Tensor | None = None
        self.forward_s: list[float] = []
        self.first_backward_s: list[float] = []
        self.backward_s: list[float] = []

    def forward(self, now: Callable[[], float]) -> None:
        """Time a forward and keep what its backward needs."""
        values = self.values.detach()
        if values.is_floating_point():
            values.requires_grad_()
        start_s = now()
        output = self.module(values)
        if self.loss is not None:
            output = self.loss(output)
        self.forward_s.append(now() - start_s)
        self.output = output

    def backward(self, now: Callable[[], float], samples: list[float]) -> None:
        """Time the backward of the last forward into `samples`."""
        output, self.output = self.output, None
        assert output is not None
        start_s = now()
        if output.requires_grad:
            torch.autograd.backward(output, torch.ones_like(output))
        samples.append(now() - start_s)

    def times(self) -> LayerTimes:
        """The medians of all samples but those of the first repetition, and the bytes."""
        forward_s = statistics.median(self.forward_s[2:])
        first_s = statistics.median(self.first_backward_s[1:])
        backward_s = statistics.median(self.backward_s[1:])
        saved, output = self._bytes()
        return LayerTimes(
            forward_s=forward_s,
            backward_s=backward_s,
            first_backward_s=max(first_s, backward_s),
            saved_bytes=saved,
            output_bytes=output,
        )

    def _bytes(self) -> tuple[float, float]:
        own = {p.untyped_storage().data_ptr() for p in self.module.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        values = self.values.detach()
        if values.is_floating_point():
            values.requires_grad_()
        products = _ProductBytes()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), products:
            output = self.module(values)
            if self.loss is not None:
                self.loss(output)
        saved = float(sum(kept.values()))
        if self.level != "none":
            saved += _num_bytes(values)
        if self.level == "selective":
            saved += products.num_bytes
        return saved, _num_bytes(output)


class _ProductBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the matrix products that selective recomputation keeps."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in LINEAR_PRODUCTS:
            self.num_bytes += _num_bytes(result)
        return result


def _num_bytes(tensor: torch.Tensor) -> float:
    return float(tensor.numel() * tensor.element_size())


def measure_layers(
    layers: Sequence[nn.Module],
    loss_fn: LossFunction,
    batch: tuple[torch.Tensor, torch.Tensor],
    settings: Iterable[LayerSetting],
    blocks: range,
    device: torch.device,
    precision: str = "fp32",
) -> dict[LayerSetting, tuple[LayerTimes, ...]]:
    """The times of every layer in every setting; the last layer's include the loss.

    `batch`: inputs and targets, at least as many rows as the largest micro-batch. Only the layers
    in `blocks` are recomputed. Model, gradients and random numbers stay as they are.
    """
    probes: dict[tuple[Any, ...], _Probe] = {}
    places: dict[LayerSetting, list[tuple[Any, ...]]] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        for setting in settings:
            places[setting] = []
            inputs, targets = (part[: setting.batch_per_device].to(device) for part in batch)
            modules = [StageModule(layer, device, precision) for layer in layers]
            for i, shape in enumerate(boundary_shapes(modules, inputs)[:-1]):
                level = setting.recomputation if i in blocks else "none"
                loss = _loss_of(loss_fn, targets, modules[i]) if i == len(layers) - 1 else None
                key = (*_kind(layers[i]), shape.shape, shape.dtype, level, loss is not None)
                places[setting].append(key)
                if key not in probes:
                    values = inputs if i == 0 else _random_like(shape, device)
                    own = copy.deepcopy(layers[i]).to(device)
                    probes[key] = _Probe(StageModule(own, device, precision), loss, values, level)
        _sample_all(list(probes.values()), device)
        times = {key: probe.times() for key, probe in probes.items()}
    return {setting: tuple(times[key] for key in keys) for setting, keys in places.items()}


def _sample_all(probes: Sequence[_Probe], device: torch.device) -> None:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    gc.collect()
    gc.disable()
    try:
        for _ in range(REPETITIONS):
            for first in range(0, len(probes), TOGETHER):
                _repetition(probes[first : first + TOGETHER], now)
    finally:
        gc.enable()


def _repetition(probes: Sequence[_Probe], now: Callable[[], float]) -> None:
    """All forwards before the backwards, as in a step: caches have forgotten the activations."""
    for probe in probes:
        probe.module.zero_grad(set_to_none=True)
    for creating in (True, False):
        for probe in probes:
            probe.forward(now)
        for probe in probes:
            probe.backward(now, probe.first_backward_s if creating else probe.backward_s)
    for probe in probes:
        probe.module.zero_grad(set_to_none=True)


def _loss_of(
    loss_fn: LossFunction, targets: torch.Tensor, module: StageModule
) -> Callable[[torch.Tensor], torch.Tensor]:
    def loss(outputs: torch.Tensor) -> torch.Tensor:
        with module.precision():
            return loss_fn(outputs, targets)

    return loss


def _random_like(shape: torch.Tensor, device: torch.device) -> torch.Tensor:
    if shape.dtype.is_floating_point:
        return torch.randn(shape.shape, dtype=shape.dtype, device=device)
    return torch.zeros(shape.shape, dtype=shape.dtype, device=device)


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Equal for layers that cost the same."""
    shapes = tuple((tuple(p.shape), p.dtype, p.requires_grad) for p in layer.parameters())
    return (type(layer), repr(layer), shapes)
