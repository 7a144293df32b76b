"""Pipeline stages that tell when they compute."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

Mark = Callable[[str, int, int, float, float], None]
"""(kind; stage; micro-batch; start, end in seconds of `time.perf_counter`). Kinds: F, B, I
or W; with micro-batch -1 `GATHER` and `REDUCE`."""

GATHER, REDUCE = "gather", "reduce"
"""A pipeline stage waits for its sharded parameters; it reduces its gradients."""


class Clock:
    """Reads the time for the marks; waits for the device only when somebody listens."""

    def __init__(self, device: torch.device, mark: Mark | None) -> None:
        self.device = device
        self.mark = mark
        self.on_start: Callable[[], None] | None = None
        """Called when a computation begins."""

    def now(self) -> float:
        """Seconds of `time.perf_counter` when a computation begins."""
        if self.on_start is not None:
            self.on_start()
        return self._now()

    def _now(self) -> float:
        """The time after what the device has to do."""
        if self.mark is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def tell(self, kind: str, stage: int, micro_batch: int, start_s: float) -> None:
        """Mark a computation that began at `start_s` and ends now."""
        if self.mark is not None:
            self.mark(kind, stage, micro_batch, start_s, self._now())


class MarkedStage(PipelineStage):
    """A stage that tells when it computes. The last one's forward ends with the loss."""

    clock: Clock
    begun: tuple[int, float] | None = None
    """Micro-batch and start of a forward whose loss is not computed yet."""

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """As torch's, marked."""
        self.begun = (fwd_chunk_id, self.clock.now())
        output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        if not self.is_last:
            self.forward_done()
        return output

    def forward_done(self) -> None:
        """Mark the forward that has begun."""
        if self.begun is not None:  # None when torch tries the loss out to learn shapes
            self.clock.tell("F", self.stage_index, *self.begun)
            self.begun = None

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """As torch's, marked."""
        start_s = self.clock.now()
        result = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        kind = "B" if kwargs.get("full_backward", True) else "I"
        if self.has_backward:
            self.clock.tell(kind, self.stage_index, bwd_chunk_id, start_s)
        return result

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """As torch's, marked."""
        start_s = self.clock.now()
        result = super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)
        if self.has_backward:
            self.clock.tell("W", self.stage_index, bwd_chunk_id, start_s)
        return result

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """As torch's, marked."""
        start_s = self.clock.now()
        super().perform_reduce_grad(grad_scale_factor)
        if isinstance(self.submod, FSDPModule):
            self.clock.tell(REDUCE, self.stage_index, -1, start_s)

    # Where neighbouring stages share a rank, torch hands gradients over in evaluation as well, and
    # fails because there are none (torch 2.13).
    def get_local_bwd_output(self, mb_index: int) -> Any:
        """As torch's; nothing in evaluation."""
        if not self.has_backward:
            return ()
        return super().get_local_bwd_output(mb_index)  # type: ignore[no-untyped-call]

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """As torch's; nothing in evaluation."""
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)


class MarkedRuntime(_PipelineScheduleRuntime):
    """torch's runtime, which tells when it waits for gathered parameters."""

    def _assert_unsharded(self, stage: Any) -> None:
        waits = stage.stage_index in self.unshard_ops
        start_s = stage.clock.now()
        super()._assert_unsharded(stage)
        if waits:
            stage.clock.tell(GATHER, stage.stage_index, -1, start_s)
