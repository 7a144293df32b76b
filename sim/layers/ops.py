"""One operation of a layer: its kernels, its messages, and what it keeps for its backward.

A layer is a list of operations in the order of its forward. Everything that is asked of a layer
(seconds, memory, parameters, FLOPs) is a sum over them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from parplan.hardware.kernels.kernel import Kernel

CORE = "attention"
"""The name of scores, softmax and weighted values: what selective recomputation computes again."""

Group = Literal["tensor", "context", "expert"]
"""The ranks that an exchange goes over."""

ExchangeOp = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A collective that an operation waits for."""

    group: Group
    op: ExchangeOp
    num_bytes: float
    """Of the whole buffer: what is reduced, gathered or scattered, or what one rank sends away."""
    overlaps: bool = False
    """Whether it runs beside the kernels of its own operation (context-parallel rings)."""
    once_per_node: tuple[int, int] | None = None
    """Of an all-to-all whose buffer has a copy of each token for each of so many experts, out of so
    many: whether what a node or a rank needs several times is sent there once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of one layer on one micro-batch and one rank."""

    name: str
    forward: tuple[Kernel, ...] = ()
    input_gradient: tuple[Kernel, ...] = ()
    """Kernels that make the gradient of the input."""
    weight_gradient: tuple[Kernel, ...] = ()
    """Kernels that make the gradients of the parameters."""
    forward_exchanges: tuple[Exchange, ...] = ()
    backward_exchanges: tuple[Exchange, ...] = ()
    input_bytes: float = 0.0
    """The input, where the backward reads it. Each tensor is counted at the one that reads it."""
    output_bytes: float = 0.0
    """Of the output, where it is but a part of what the next operation reads."""
    inner_bytes: float = 0.0
    """What the backward reads beside it: masks, scores, statistics."""
    working_bytes: float = 0.0
    """What is there beside all this only while it runs, backward included."""
    parameters: float = 0.0
    """Held by one rank, sharded over no data-parallel ranks."""
    expert_parameters: float = 0.0
    """The same of routed experts, whose gradients are reduced over fewer ranks."""


def kept_bytes(ops: Sequence[Op], recomputed: frozenset[str]) -> float:
    """Bytes that one micro-batch keeps of a layer from forward to backward.

    Of operations that are computed again, only the input of each unbroken run of them is kept, and
    not their output where another operation reads it (but that of attention, whose recomputation
    is a checkpoint of its own in Megatron-LM).
    """
    total, in_run = 0.0, False
    # Bytes of what the next operation reads that are made again.
    again = 0.0
    for op in ops:
        own = max(0.0, op.input_bytes - again)
        if op.name not in recomputed:
            total += op.inner_bytes + own
            in_run, again = False, 0.0
            continue
        if not in_run:
            total += own
        # What keeps no input of its own is made again from what comes before.
        in_run = in_run or op.input_bytes > 0
        if op.name == CORE:
            again = 0.0
        elif op.input_bytes > 0 or again == math.inf:
            again = math.inf
        else:
            again = op.output_bytes
    return total


def all_bytes(ops: Iterable[Op]) -> float:
    """Bytes that the backward of a layer reads in all."""
    return sum(op.input_bytes + op.inner_bytes for op in ops)
