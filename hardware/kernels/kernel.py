"""Kernel descriptions with their operations and memory traffic.

How long one takes: `parplan.hardware.estimates.kernel_times`.
"""

from dataclasses import dataclass
from typing import Literal

from parplan.errors import ParplanError

BYTES: dict[str, float] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "fp4": 0.5}
"""Bytes of a value as it lies in memory."""

Direction = Literal["forward", "backward"]
Layout = Literal["NN", "TN", "NT"]
Family = Literal["copy", "norm", "activation", "rotary", "softmax", "loss", "embedding"]
Provider = Literal["copy", "eager", "torch", "triton", "megatron"]
"""Kernels bound by memory: a chain of elementwise ones of torch, one of torch's own, one in Triton
(torch.compile's, Liger's; assumed of Apex's and Transformer Engine's), one of Megatron-LM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """`batch` products of an m x k and a k x n matrix."""

    m: int
    n: int
    k: int
    dtype: str
    batch: int = 1
    transposed: Layout = "TN"
    """Which operands lie transposed in memory, column-major as BLAS counts: for a linear layer on
    row-major tensors TN is the forward, NN the gradient of the input, NT that of the weights."""
    accumulate: bool = False
    """Whether the product is added to what the output holds (gradient accumulation)."""
    output_dtype: str | None = None
    """By default that of the operands, or fp32 where the output accumulates."""
    grouped: bool = False
    """Whether the `batch` products are kernels of their own (experts), not one batched kernel."""

    def __post_init__(self) -> None:
        _check_positive(self, "m", "n", "k", "batch")

    @property
    def flops(self) -> float:
        """Floating-point operations, a multiplication and an addition for each term."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def num_bytes(self) -> float:
        """Bytes read and written when each value crosses the memory interface once."""
        m, n, k, size = self.m, self.n, self.k, BYTES[self.dtype]
        return float(self.batch * (size * (m * k + k * n) + self.output_bytes * m * n))

    @property
    def output_bytes(self) -> float:
        """Bytes written, and read where it accumulates, for one value of the output."""
        size = BYTES[self.output_dtype or ("fp32" if self.accumulate else self.dtype)]
        return 2 * size if self.accumulate else size


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Scaled dot-product attention of `batch` sequences, fused (flash) or as separate kernels."""

    batch: int
    heads: int
    kv_heads: int
    query_len: int
    key_len: int
    head_size: int
    """Features of a query and of a key of one head."""
    dtype: str
    causal: bool = True
    flash: bool = True
    direction: Direction = "forward"
    synchronous: bool = False
    """Of flash attention: whether it leaves unused what accelerators since Hopper add for it, as
    FlashAttention-2 does."""
    slowdown: float = 1.0
    """Of flash attention: its time over that of FlashAttention-2, in loops over the scores."""
    value_size: int | None = None
    """Features of a value of one head; by default `head_size`."""
    window: int | None = None
    """Keys that a query attends to, the nearest before it; None: all of them. Only flash attention
    skips the others."""

    def __post_init__(self) -> None:
        _check_positive(self, "batch", "heads", "kv_heads", "query_len", "key_len", "head_size")
        if self.window is not None:
            _check_positive(self, "window")
            if not self.causal:
                raise ParplanError("window: needs causal attention")

    @property
    def flops(self) -> float:
        """Operations that are computed: the masked half counts unless the kernel skips it.

        Two products forward; backward four, and a fifth where flash attention computes the scores
        again (Dao et al. 2022, arXiv:2205.14135, Appendix B).
        """
        of_keys, of_values = (1, 1) if self.direction == "forward" else (3 if self.flash else 2, 2)
        scores = float(self.batch * self.heads * self.query_len * self.key_len)
        features = of_keys * self.head_size + of_values * self.value_features
        return self.computed_share * 2.0 * scores * features

    @property
    def computed_share(self) -> float:
        """Share of the scores that are computed.

        Under a causal mask half, and r - r^2 / 2 where a window has the share r of the keys.
        """
        if not (self.causal and self.flash):
            return 1.0
        r = self.window_share
        return r - r * r / 2

    @property
    def window_share(self) -> float:
        """Share of all keys that a query at the end of a sequence attends to."""
        return 1.0 if self.window is None else min(1.0, self.window / self.key_len)

    @property
    def num_bytes(self) -> float:
        """Bytes read and written; unfused kernels write the scores and read them twice or more."""
        size, features = BYTES[self.dtype], self.head_size + self.value_features
        queries = self.batch * self.heads * self.query_len * features
        keys = self.batch * self.kv_heads * self.key_len * features
        passes = 1 if self.direction == "forward" else 2
        operands = passes * size * (queries + keys)
        scores = 0 if self.flash else self.batch * self.heads * self.query_len * self.key_len
        return float(operands + passes * size * 4 * scores)

    @property
    def value_features(self) -> int:
        """Features of a value of one head."""
        return self.value_size or self.head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBound:
    """A kernel that reads and writes `num_bytes` in all and computes little."""

    num_bytes: float
    family: Family = "copy"
    """What it computes."""
    provider: Provider = "copy"
    """Where it comes from; `copy`: a kernel that streams as a copy does."""
    direction: Direction = "forward"
    wide: bool = False
    """Whether its values have 32 bits: of these it moves more bytes for each that it computes."""

    def __post_init__(self) -> None:
        if self.num_bytes < 0:
            raise ParplanError(f"num_bytes: must not be negative, got {self.num_bytes}")

    @property
    def flops(self) -> float:
        """None that count."""
        return 0.0


Kernel = Gemm | Attention | MemoryBound


def _check_positive(kernel: object, *names: str) -> None:
    for name in names:
        if getattr(kernel, name) < 1:
            raise ParplanError(f"{name}: must be at least 1, got {getattr(kernel, name)}")
