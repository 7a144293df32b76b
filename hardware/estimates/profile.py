"""Machine profiles: measured kernels, messages, layers and optimizer.

Advanced Parallelization calls such a thing the DB from the backend. `parplan calibrate` writes it;
`parplan.hardware.estimates.profile_lookup` answers from it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.kernels.kernel import BYTES, Attention, Gemm, Kernel, MemoryBound

CollectiveOp = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The measured machine, and the number of processes that ran at the same time."""

    device: str
    """The accelerator's name, or the processor's where there is none."""
    device_kind: Literal["cpu", "cuda"]
    num_processes: int
    """All of them computed and communicated at the same time, each on a device of its own (on
    CPUs: on its share of the cores)."""
    cores: int
    threads_per_process: int
    memory_bytes: int
    """What one process may use."""
    backend: Literal["gloo", "nccl", "none"]
    """What carried the messages."""
    torch: str
    python: str
    cuda: str | None = None
    """The version that torch was built for, and the driver's."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "cores", "threads_per_process", "memory_bytes"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One measurement."""

    seconds: float
    """The median of all samples."""
    spread_s: float
    """The noise: half the interquartile range of the samples, or half the range of the medians of
    the sittings (separate starts of the processes), whichever is more."""
    samples: int

    def __post_init__(self) -> None:
        _check_timing(self)


def _check_timing(value: "Timing | MeasuredLayer") -> None:
    for field in dataclasses.fields(value):
        number = getattr(value, field.name)
        spread = field.name.startswith("spread")
        if field.name.endswith(("seconds", "_s")) and (number < 0 or (number == 0 and not spread)):
            allowed = "not be negative" if spread else "be positive"
            raise ParplanError(f"{field.name}: must {allowed}, got {number}")
    if value.samples < 1:
        raise ParplanError(f"samples: must be at least 1, got {value.samples}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredKernel:
    """A kernel, on every process at the same time.

    On a CPU with one thread per process its seconds are processor time: other programs are not in.
    """

    kernel: Kernel
    timing: Timing

    def __post_init__(self) -> None:
        dtype = getattr(self.kernel, "dtype", None)
        if dtype is not None and dtype not in BYTES:
            raise unknown_name("data type", dtype, BYTES)
        if isinstance(self.kernel, MemoryBound) and not self.kernel.num_bytes:
            raise ParplanError("num_bytes: must be positive, got 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCall:
    """One collective operation as a value.

    num_bytes: all_reduce, broadcast: of the buffer; all_gather: of the gathered buffer;
    reduce_scatter, all_to_all: of one rank's input; send: of the message, one way.
    """

    op: CollectiveOp
    num_bytes: int
    num_ranks: int
    ranks_per_node: int

    def __post_init__(self) -> None:
        if self.num_bytes < 1:
            raise ParplanError(f"num_bytes: must be at least 1, got {self.num_bytes}")
        if self.num_ranks < 2:
            raise ParplanError(f"num_ranks: must be at least 2, got {self.num_ranks}")
        if not 1 <= self.ranks_per_node <= self.num_ranks:
            raise ParplanError(
                f"ranks_per_node: must be 1 to {self.num_ranks}, got {self.ranks_per_node}"
            )

    @property
    def bus_bytes(self) -> float:
        """Bytes that each rank has to send over its link, for a bus bandwidth.

        Factors: NCCL tests, doc/PERFORMANCE.md, "Bus bandwidth".
        """
        others = (self.num_ranks - 1) / self.num_ranks
        factor = {"all_reduce": 2 * others, "broadcast": 1.0, "send": 1.0}.get(self.op, others)
        return factor * self.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCollective:
    """A collective until its last rank was done; all groups of that size at the same time."""

    collective: CollectiveCall
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLayer:
    """Forward and backward of one layer of a model and one micro-batch."""

    model: str
    layer: Literal["embedding", "block", "head"]
    micro_batch: int
    seq_len: int
    precision: Literal["bf16", "fp16", "fp32"]
    recomputation: Literal["none", "selective", "full"]
    forward_s: float
    spread_forward_s: float
    backward_s: float
    """With recomputation, adding to gradients that exist."""
    spread_backward_s: float
    samples: int

    def __post_init__(self) -> None:
        for name in ("micro_batch", "seq_len"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
        _check_timing(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOptimizer:
    """One step of torch's AdamW over `num_parameters` fp32 parameters."""

    num_parameters: int
    timing: Timing

    def __post_init__(self) -> None:
        if self.num_parameters < 1:
            raise ParplanError(f"num_parameters: must be at least 1, got {self.num_parameters}")

    @property
    def s_per_parameter(self) -> float:
        """Seconds per parameter."""
        return self.timing.seconds / self.num_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The measured database of one machine."""

    machine: Machine
    date: str
    """When it was finished: ISO 8601, UTC."""
    kernels: tuple[MeasuredKernel, ...] = ()
    collectives: tuple[MeasuredCollective, ...] = ()
    layers: tuple[MeasuredLayer, ...] = ()
    optimizer: MeasuredOptimizer | None = None

    def __post_init__(self) -> None:
        for name, things in (
            ("kernels", [m.kernel for m in self.kernels]),
            ("collectives", [m.collective for m in self.collectives]),
        ):
            if len(set(things)) < len(things):
                twice = next(t for i, t in enumerate(things) if t in things[:i])
                raise ParplanError(f"{name}: measured twice: {twice}")

    def of_kind(
        self, kind: type[Gemm] | type[Attention] | type[MemoryBound]
    ) -> list[MeasuredKernel]:
        """The measurements of one kind of kernel."""
        return [m for m in self.kernels if isinstance(m.kernel, kind)]
