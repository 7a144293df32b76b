"""Operands of kernels that are measured: views into large buffers.

Repetitions walk through these: a kernel does not find what it read a moment ago in a cache, as in a
training step.
"""

from collections.abc import Callable, Sequence

import torch

Run = Callable[[int], None]
"""Does its kernel so many times, one after the other."""

MOST_SETS = 32
"""Sets of operands that repetitions walk through."""

ALIGNMENT = 64
"""Values between which operands begin."""

POOL_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
"""At least several times what caches hold."""


class Operands:
    """Buffers of numbers, one per data type and use, made when they are needed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pools: dict[tuple[torch.dtype, str], torch.Tensor] = {}

    def sets(
        self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, use: str
    ) -> list[list[torch.Tensor]]:
        """Up to `MOST_SETS` sets of tensors of `shapes`, spread over the buffer `use`."""
        sizes = [_aligned(torch.Size(shape).numel()) for shape in shapes]
        needed = sum(sizes)
        pool = self._pool(needed, dtype, use)
        count = max(1, min(MOST_SETS, len(pool) // needed))
        step = (len(pool) - needed) // max(1, count - 1) // ALIGNMENT * ALIGNMENT
        found = []
        for i in range(count):
            start, tensors = i * step, []
            for shape, size in zip(shapes, sizes, strict=True):
                values = pool[start : start + torch.Size(shape).numel()]
                tensors.append(values.view(shape))
                start += size
            found.append(tensors)
        return found

    def _pool(self, needed: int, dtype: torch.dtype, use: str) -> torch.Tensor:
        pool = self._pools.get((dtype, use))
        if pool is None or len(pool) < needed:
            self._pools.pop((dtype, use), None)
            length = max(needed, POOL_BYTES[self.device.type] // dtype.itemsize)
            pool = _numbers(length, dtype, self.device)
            self._pools[dtype, use] = pool
        return pool


def _numbers(length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Normal numbers, small enough that sums of many stay finite; made in parts."""
    part = torch.randn(2**20, device=device).mul_(0.02).to(dtype)
    return part.repeat(-(-length // len(part)))[:length]


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
