"""Configurations that a calibration measures, in a fixed order."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import CollectiveCall, CollectiveOp
from parplan.hardware.kernels.kernel import (
    Attention,
    Direction,
    Family,
    Gemm,
    Kernel,
    MemoryBound,
    Provider,
)
from parplan.sim.models.model import Model

LAYOUTS: tuple[Literal["TN", "NN", "NT"], ...] = ("TN", "NN", "NT")

MEASURED: tuple[tuple[Family, Provider], ...] = (
    ("norm", "torch"),
    ("norm", "eager"),
    ("activation", "eager"),
    ("rotary", "eager"),
    ("softmax", "torch"),
    ("loss", "eager"),
    ("embedding", "torch"),
)
"""Kernels bound by memory that torch has by itself, beside copies and sums."""

LAYERS: tuple[Literal["embedding", "block", "head"], ...] = ("embedding", "block", "head")

RECOMPUTATIONS: tuple[Literal["none", "full"], ...] = ("none", "full")


SITTINGS = {"full": 3, "quick": 2}
"""Starts of the processes, by the kind of grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """Settings of a calibration; a resumed one must have the same."""

    model: Model
    """Whose layers are timed."""
    seq_len: int
    processes: int
    grid: Literal["full", "quick"] = "full"

    def __post_init__(self) -> None:
        for name in ("seq_len", "processes"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep:
    """One AdamW step over this many fp32 parameters."""

    num_parameters: int


Item = Kernel | CollectiveCall | OptimizerStep


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranges:
    """The sizes of a grid. Exponents are those of 2."""

    dtypes: tuple[str, ...]
    gemm_exponents: tuple[int, ...]
    gemm_most: int
    """Exponent of the largest m x n x k."""
    attention_dtypes: tuple[str, ...]
    seq_lens: tuple[int, ...]
    heads: tuple[int, ...]
    head_sizes: tuple[int, ...]
    attention_most: int
    """Of batch x heads x sequence length squared."""
    copy_exponents: tuple[int, ...]
    message_exponents: tuple[int, ...]
    micro_batches: tuple[int, ...]


RANGES = {
    ("cpu", "full"): _Ranges(
        dtypes=("fp32", "bf16"),
        gemm_exponents=(6, 8, 10, 12),
        gemm_most=30,
        attention_dtypes=("fp32", "bf16"),
        seq_lens=(64, 256, 1024),
        heads=(4, 16, 64),
        head_sizes=(64, 128),
        attention_most=2**22,
        copy_exponents=(12, 14, 16, 18, 20, 22, 24, 26),
        message_exponents=(8, 10, 12, 14, 16, 18, 20, 22, 24),
        micro_batches=(1, 2, 4, 8),
    ),
    ("cpu", "quick"): _Ranges(
        dtypes=("fp32",),
        gemm_exponents=(6, 8, 10),
        gemm_most=28,
        attention_dtypes=("fp32",),
        seq_lens=(64, 256),
        heads=(4, 16),
        head_sizes=(64,),
        attention_most=2**20,
        copy_exponents=(12, 16, 20, 24),
        message_exponents=(10, 14, 18, 22),
        micro_batches=(1, 4),
    ),
    ("cuda", "full"): _Ranges(
        dtypes=("bf16", "fp16", "tf32", "fp32", "fp8"),
        gemm_exponents=(7, 9, 11, 13, 14),
        gemm_most=40,
        attention_dtypes=("bf16", "fp16"),
        seq_lens=(512, 2048, 8192),
        heads=(8, 32, 128),
        head_sizes=(64, 128),
        attention_most=2**31,
        copy_exponents=tuple(range(14, 32, 2)),
        message_exponents=tuple(range(10, 30, 2)),
        micro_batches=(1, 2, 4),
    ),
    ("cuda", "quick"): _Ranges(
        dtypes=("bf16", "fp32"),
        gemm_exponents=(8, 11, 13),
        gemm_most=39,
        attention_dtypes=("bf16",),
        seq_lens=(512, 2048),
        heads=(8, 32),
        head_sizes=(128,),
        attention_most=2**28,
        copy_exponents=(14, 20, 26, 30),
        message_exponents=(10, 16, 22, 28),
        micro_batches=(1, 2),
    ),
}


def micro_batches(settings: CalibrationSettings, device_kind: str) -> tuple[int, ...]:
    """The micro-batch sizes whose layers are timed."""
    return RANGES[device_kind, settings.grid].micro_batches


def grid(settings: CalibrationSettings, device_kind: str) -> list[Item]:
    """Everything that the rounds measure, once each, always in the same order."""
    ranges = RANGES[device_kind, settings.grid]
    items: list[Item] = [*_gemms(ranges), *_attentions(ranges), *_copies(ranges)]
    items += _memory_bound(ranges)
    items.append(OptimizerStep(num_parameters=settings.model.block_parameters))
    items += _collectives(ranges, settings.processes)
    return list(dict.fromkeys(items))


def _gemms(ranges: _Ranges) -> Iterator[Gemm]:
    sizes = [
        tuple(2**e for e in exponents)
        for exponents in itertools.product(ranges.gemm_exponents, repeat=3)
        if sum(exponents) <= ranges.gemm_most
    ]
    for dtype in ranges.dtypes:
        # torch multiplies 8-bit floats in the layout of a linear layer's forward alone.
        for layout in LAYOUTS[:1] if dtype == "fp8" else LAYOUTS:
            for m, n, k in sizes:
                yield Gemm(m=m, n=n, k=k, dtype=dtype, transposed=layout)
    for m, n, k in sizes:
        yield Gemm(m=m, n=n, k=k, dtype="fp32", transposed="NT", accumulate=True)
    for dtype in ranges.dtypes[:1]:
        for seq, batch in itertools.product(ranges.seq_lens[:2], ranges.heads[:2]):
            for n, k in ((seq, ranges.head_sizes[0]), (ranges.head_sizes[0], seq)):
                yield Gemm(m=seq, n=n, k=k, batch=batch, dtype=dtype, transposed="NN")


def _attentions(ranges: _Ranges) -> Iterator[Attention]:
    for dtype, head_size, seq, heads, direction in itertools.product(
        ranges.attention_dtypes,
        ranges.head_sizes,
        ranges.seq_lens,
        ranges.heads,
        get_args(Direction),
    ):
        if heads * seq * seq <= ranges.attention_most:
            yield Attention(
                batch=1,
                heads=heads,
                kv_heads=heads,
                query_len=seq,
                key_len=seq,
                head_size=head_size,
                dtype=dtype,
                direction=direction,
            )


def _copies(ranges: _Ranges) -> Iterator[MemoryBound]:
    for exponent in ranges.copy_exponents:
        yield MemoryBound(num_bytes=float(2**exponent))


def _memory_bound(ranges: _Ranges) -> Iterator[MemoryBound]:
    """Every family that torch has kernels of, at every second size of copies."""
    for (family, provider), direction in itertools.product(MEASURED, get_args(Direction)):
        for exponent in ranges.copy_exponents[1::2]:
            yield MemoryBound(
                num_bytes=float(2**exponent),
                family=family,
                provider=provider,
                direction=direction,
            )


def _collectives(ranges: _Ranges, processes: int) -> Iterator[CollectiveCall]:
    """Over all processes, and over groups of every power of two; messages between two."""
    sizes = [n for n in (2**e for e in range(1, 20)) if n < processes]
    sizes += [processes] if processes > 1 else []
    for op in get_args(CollectiveOp):
        for num_ranks in sizes[:1] if op == "send" else sizes:
            for exponent in ranges.message_exponents:
                # A whole number of 4-byte values on every rank.
                num_bytes = -(-(2**exponent) // (4 * num_ranks)) * 4 * num_ranks
                yield CollectiveCall(
                    op=op,
                    num_bytes=num_bytes,
                    num_ranks=2 if op == "send" else num_ranks,
                    ranks_per_node=2 if op == "send" else num_ranks,
                )
