"""Measured costs of communication and optimizer, all processes at once."""

import contextlib
import copy
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from parplan.backend.models.boundary_shapes import boundary_shapes
from parplan.backend.models.chain import Chain
from parplan.backend.runtime.pipeline import StageModule

REPETITIONS = 9
MESSAGE_BYTES = (2**12, 2**17, 2**20)
DEPTHS = (1, 4)
"""Blocks of the two small models whose gradients are reduced."""

ENOUGH_PARAMETERS = 10_000_000
"""So many, with gradients and moments, are larger than caches (160 MB in fp32)."""

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCosts:
    """Costs of communication and of the optimizer, measured on the running processes."""

    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    """Of a message between two processes."""
    reduce_latency_s: float = 0.0
    reduce_s_per_byte: float = 0.0
    """What reducing gradients over all processes adds to a backward."""
    optimizer_s_per_parameter: float = 0.0
    memory_bytes: float = math.inf
    """What one process may use."""


def measure_machine(
    chain: Chain, batch: Batch, device: torch.device, precision: str = "fp32"
) -> MachineCosts:
    """Measure messages between neighbours, gradient reductions over all processes, and AdamW.

    `batch`: the inputs and targets of one process's micro-batch. Every process calls it at the
    same time. Of one process alone communication costs nothing. Random numbers stay as they are.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        return _measure(chain, batch, device, precision)


def _measure(chain: Chain, batch: Batch, device: torch.device, precision: str) -> MachineCosts:
    optimizer_s = _optimizer_s_per_parameter(chain, device)
    memory_bytes = memory_of_process(device)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return MachineCosts(optimizer_s_per_parameter=optimizer_s, memory_bytes=memory_bytes)
    latency_s, s_per_byte = _messages(device)
    reduce_latency_s, reduce_s_per_byte = _reduction(chain, batch, device, precision)
    return MachineCosts(
        latency_s=latency_s,
        bytes_per_s=1 / s_per_byte,
        reduce_latency_s=reduce_latency_s,
        reduce_s_per_byte=reduce_s_per_byte,
        optimizer_s_per_parameter=optimizer_s,
        memory_bytes=memory_bytes,
    )


def _messages(device: torch.device) -> tuple[float, float]:
    """Latency, and seconds per byte, of a message between neighbours."""
    values = [torch.zeros(size // 4, device=device) for size in MESSAGE_BYTES]
    samples = [[_ping_pong(value) / 2 for value in values] for _ in range(REPETITIONS)]
    return _line(MESSAGE_BYTES, samples)


def _line(sizes: Sequence[float], samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds at size 0 and per unit of size, through the medians of all samples but the first."""
    medians = [statistics.median(column) for column in zip(*samples[1:], strict=True)]
    slope, intercept = statistics.linear_regression(sizes, medians)
    return max(intercept, 0.0), max(slope, 1e-15)


def _ping_pong(values: torch.Tensor) -> float:
    """Seconds there and back between processes 2 i and 2 i + 1; the last odd one rests."""
    rank = dist.get_rank()
    other = rank ^ 1
    dist.barrier()
    start_s = _now(values.device)
    if other < dist.get_world_size():
        turns = (dist.send, dist.recv) if rank < other else (dist.recv, dist.send)
        for turn in turns:
            turn(values, other)
    return _now(values.device) - start_s


def _reduction(
    chain: Chain, batch: Batch, device: torch.device, precision: str
) -> tuple[float, float]:
    """Time that DistributedDataParallel adds to a backward.

    Seconds for a model without parameters, and per byte of gradients. From models of few blocks, so
    that its hooks, its copies and the overlap with the backward are in it. Measured with and
    without reduction in turn.
    """
    models = [
        DistributedDataParallel(StageModule(module.to(device), device, precision))
        for module in _small_models(chain, batch[0])
    ]
    num_bytes = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in models]
    samples = [
        [_backward_s(m, chain, batch, True) - _backward_s(m, chain, batch, False) for m in models]
        for _ in range(REPETITIONS)
    ]
    if not models:
        return 0.0, 0.0
    if len(models) == 1:
        # Blocks of different shapes: the whole chain, and a reduction of nearly nothing.
        num_bytes = [0, *num_bytes]
        samples = [[_tiny_reduction_s(device), *sample] for sample in samples]
    return _line(num_bytes, samples)


def _tiny_reduction_s(device: torch.device) -> float:
    value = torch.zeros(1, device=device)
    dist.barrier()
    start_s = _now(device)
    dist.all_reduce(value)
    return _now(device) - start_s


def _small_models(chain: Chain, inputs: torch.Tensor) -> list[nn.Module]:
    """Copies of the chain with few of its blocks, if these can follow each other.

    Else one copy of the whole chain. None where nothing is trained.
    """
    if not any(p.requires_grad for layer in chain.layers for p in layer.parameters()):
        return []
    first, last = chain.num_first, len(chain.layers) - chain.num_last
    shapes = [tuple(shape.shape) for shape in boundary_shapes(chain.layers, inputs)]
    block = chain.layers[first]
    alike = len(set(shapes[first : last + 1])) == 1 and chain.num_blocks > 1
    if alike and any(p.requires_grad for p in block.parameters()):
        stacks = [
            [*chain.layers[:first], *[block] * depth, *chain.layers[last:]] for depth in DEPTHS
        ]
    else:
        stacks = [list(chain.layers)]
    return [nn.Sequential(*(copy.deepcopy(layer) for layer in stack)) for stack in stacks]


def _backward_s(model: DistributedDataParallel, chain: Chain, batch: Batch, reduce: bool) -> float:
    """Seconds of one backward that creates gradients, with or without reducing them."""
    model.zero_grad(set_to_none=True)
    inputs, targets = (part.to(next(model.parameters()).device) for part in batch)
    with contextlib.nullcontext() if reduce else model.no_sync():
        loss = chain.loss_fn(model(inputs), targets)
        dist.barrier()
        start_s = _now(loss.device)
        loss.backward()  # type: ignore[no-untyped-call]
        return _now(loss.device) - start_s


def _optimizer_s_per_parameter(chain: Chain, device: torch.device) -> float:
    """Seconds of torch's AdamW with its defaults per parameter that is trained."""
    layers = [copy.deepcopy(layer).to(device) for layer in layers_of_optimizer(chain)]
    parameters = [p for p in nn.ModuleList(layers).parameters() if p.requires_grad]
    for parameter in parameters:
        # Not zeros, on which AdamW takes twice as long.
        parameter.grad = torch.randn_like(parameter)
    if not parameters:
        return 0.0
    optimizer = torch.optim.AdamW(parameters)
    samples = []
    for _ in range(REPETITIONS):
        start_s = _now(device)
        optimizer.step()
        samples.append(_now(device) - start_s)
    return statistics.median(samples[1:]) / sum(p.numel() for p in parameters)


def layers_of_optimizer(chain: Chain) -> tuple[nn.Module, ...]:
    """The layers on which an optimizer is measured: enough blocks to fill no cache, else all.

    Weights, gradients and two moments of all layers would be four times the model.
    """
    blocks = chain.layers[chain.num_first : len(chain.layers) - chain.num_last]
    trained = 0
    for count, block in enumerate(blocks, start=1):
        trained += sum(p.numel() for p in block.parameters() if p.requires_grad)
        if trained >= ENOUGH_PARAMETERS:
            return blocks[:count]
    return chain.layers


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_of_process(device: torch.device) -> float:
    """Bytes that one process can have: of its GPU, or its share of the machine's memory."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
