"""Pipeline stages that record the times of their computations."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

Moment = float | torch.cuda.Event
"""A time of `time.perf_counter` in seconds; on a GPU, when its stream has come so far."""

Mark = Callable[[str, int, int, Moment, Moment], None]
"""(kind; stage; micro-batch; start, end). Kinds: F, B, I or W; with micro-batch -1 `GATHER` and
`REDUCE`."""

MS_PER_S = 1e3

GATHER, REDUCE = "gather", "reduce"
"""A pipeline stage waits for its sharded parameters; it reduces its gradients."""


class Clock:
    """Clock of the marks, read only if somebody listens.

    On a GPU they are events of its stream, so that the host need not wait: `begin` before a step,
    `seconds` when the device is done.
    """

    def __init__(self, device: torch.device, mark: Mark | None) -> None:
        self.device = device
        self.mark = mark
        self.on_start: Callable[[], None] | None = None
        """Called when a computation begins."""
        self._zero: tuple[float, Moment] = 0.0, 0.0

    def begin(self) -> None:
        """A step begins, and the device has nothing to do."""
        self._zero = time.perf_counter(), self._now()

    def now(self) -> Moment:
        """The time at which a computation begins."""
        if self.on_start is not None:
            self.on_start()
        return self._now()

    def _now(self) -> Moment:
        if self.mark is None or self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def tell(self, kind: str, stage: int, micro_batch: int, start: Moment) -> None:
        """Mark a computation that began at `start` and ends now."""
        if self.mark is not None:
            self.mark(kind, stage, micro_batch, start, self._now())

    def seconds(self, moment: Moment) -> float:
        """A moment of this step as time of `time.perf_counter`."""
        if isinstance(moment, float):
            return moment
        zero_s, zero = self._zero
        assert isinstance(zero, torch.cuda.Event)
        return float(zero_s + zero.elapsed_time(moment) / MS_PER_S)


class MarkedStage(PipelineStage):
    """A stage that tells when it computes. The last one's forward ends with the loss."""

    clock: Clock
    begun: tuple[int, Moment] | None = None
    """Micro-batch and start of a forward whose loss is not computed yet."""

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """Run the method of torch's stage and record its time."""
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
        """Run the method of torch's stage and record its time."""
        start = self.clock.now()
        result = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        kind = "B" if kwargs.get("full_backward", True) else "I"
        if self.has_backward:
            self.clock.tell(kind, self.stage_index, bwd_chunk_id, start)
        return result

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """Run the method of torch's stage and record its time."""
        start = self.clock.now()
        result = super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)
        if self.has_backward:
            self.clock.tell("W", self.stage_index, bwd_chunk_id, start)
        return result

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """Run the method of torch's stage and record its time."""
        start = self.clock.now()
        super().perform_reduce_grad(grad_scale_factor)
        if isinstance(self.submod, FSDPModule):
            self.clock.tell(REDUCE, self.stage_index, -1, start)

    # Where neighbouring stages share a rank, torch hands gradients over in evaluation as well, and
    # fails because there are none (torch 2.13).
    def get_local_bwd_output(self, mb_index: int) -> Any:
        """Call the method of torch's stage; return nothing in evaluation."""
        if not self.has_backward:
            return ()
        return super().get_local_bwd_output(mb_index)  # type: ignore[no-untyped-call]

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """Call the method of torch's stage; do nothing in evaluation."""
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)


class MarkedRuntime(_PipelineScheduleRuntime):
    """torch's runtime, which tells when it waits for gathered parameters."""

    def _assert_unsharded(self, stage: Any) -> None:
        waits = stage.stage_index in self.unshard_ops
        start = stage.clock.now()
        super()._assert_unsharded(stage)
        if waits:
            stage.clock.tell(GATHER, stage.stage_index, -1, start)
