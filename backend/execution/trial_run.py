"""Training steps of one plan, timed, with what every rank did in each."""

import functools
import os
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from parplan.backend.execution.profiled_step import Profiled, profiled
from parplan.backend.models.chain import Chain
from parplan.backend.proxies.memory_predict import BEFORE
from parplan.backend.proxies.memory_runs import MemoryWatch
from parplan.backend.runtime.groups import Groups
from parplan.backend.runtime.pipeline import PipelineStep
from parplan.backend.runtime.recorded_stage import GATHER, REDUCE, Moment
from parplan.backend.workers.heartbeat import keep_step
from parplan.backend.workers.processes import is_first
from parplan.sim.plan import Plan
from parplan.sim.run import Event, Run

LEARNING_RATE = 1e-3


class Sample(NamedTuple):
    """One training step as this rank saw it.

    Times of `time.perf_counter`, which all processes of a machine share.
    """

    start_s: float
    end_s: float
    loss: float
    marks: list[tuple[str, float, float]]
    """(event name, start, end): actions such as `0F3`, `gather 0`, `reduce 0`, `optimizer 0`."""


class TrialRun:
    """A plan ready to be trained: `step` as often as wanted, then `run` and `samples_s`."""

    def __init__(
        self,
        chain: Chain,
        plan: Plan,
        batch: tuple[torch.Tensor, torch.Tensor],
        device: torch.device,
        precision: str,
        watch: MemoryWatch | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.plan, self.batch, self.device, self.watch = plan, batch, device, watch
        self.moments: list[tuple[str, Moment, Moment]] = []
        self.samples: list[Sample] = []
        self.spoilt: set[int] = set()
        self.pipeline = PipelineStep(
            layers=chain.layers,
            plan=plan,
            loss_fn=chain.loss_fn,
            example_micro_batch=batch[0][: plan.batch_per_device].to(device),
            device=device,
            num_first=chain.num_first,
            num_last=chain.num_last,
            precision=precision,
            mark=self._mark,
            groups=groups,
        )
        self.optimizer = self.pipeline.optimizer(torch.optim.AdamW, lr=LEARNING_RATE)

    def _mark(self, kind: str, stage: int, micro_batch: int, start: Moment, end: Moment) -> None:
        name = f"{kind} {stage}" if kind in (GATHER, REDUCE) else f"{stage}{kind}{micro_batch}"
        self.moments.append((name, start, end))
        if self.watch is not None:
            self.watch.segment(name)

    def watched_step(self) -> None:
        """One step, whose memory the watch sees; not to be timed."""
        assert self.watch is not None
        watch, clock = self.watch, self.pipeline.clock
        clock.on_start = functools.partial(watch.segment, BEFORE)
        watch.step()
        with watch.watching():
            self.step()
        clock.on_start = None

    def step(self) -> None:
        """One whole training step, begun by all ranks together."""
        self.moments = []
        if dist.is_initialized():
            dist.barrier()
        start_s = self._now()
        self.pipeline.clock.begin()
        loss = self.pipeline.step(*self.batch)
        before_s = self._now()
        self.optimizer.step()
        self.optimizer.zero_grad()
        end_s = self._now()
        stage, seconds = min(self.pipeline.modules), self.pipeline.clock.seconds
        marks = [(name, seconds(start), seconds(end)) for name, start, end in self.moments]
        marks.append((f"optimizer {stage}", before_s, end_s))
        if self.watch is not None:
            self.watch.segment(f"optimizer {stage}")
        self.samples.append(Sample(start_s, end_s, loss.item(), marks))
        keep_step(self.plan.to_json(), stage, end_s - start_s, marks)

    def spoil(self) -> None:
        """Leave the last step out of all times: a process was paused in it."""
        self.spoilt.add(len(self.samples) - 1)

    def profile(self) -> tuple[Sample, Profiled]:
        """One more step under the profiler, which is not among the samples."""
        found = profiled(self.step, self.plan, self.device)
        return self.samples.pop(), found

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @property
    def losses(self) -> list[float]:
        """The loss of every step so far."""
        return [sample.loss for sample in self.samples]

    def gather(self, warm_up: int) -> tuple[list[float], Run] | None:
        """Seconds of every step after `warm_up`, and the median one as a run; on rank 0 alone.

        A step lasts from when the first rank began until the last one ended.
        """
        steps = self.steps(warm_up)
        if not is_first():
            return None
        seconds = [step_seconds(step) for step in steps]
        median = statistics.median_low(seconds)
        return seconds, one_run(self.plan, steps[seconds.index(median)], median)

    def steps(self, warm_up: int) -> list[tuple[Sample, ...]]:
        """The samples of all ranks for every step after `warm_up`, on all ranks.

        Without those that were spoilt, which are so on all ranks.
        """
        timed = enumerate(self.samples)
        own = _on_one_clock([s for n, s in timed if n >= warm_up and n not in self.spoilt])
        everyone: list[list[Sample]] = [own]
        if dist.is_initialized():
            everyone = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(everyone, own)
        return list(zip(*everyone, strict=True))


def one_run(plan: Plan, samples: Sequence[Sample], step_s: float) -> Run:
    """One step with the events of the first rank of every stage."""
    ranks = plan.replicas * plan.tensor_parallel
    zero_s = min(sample.start_s for sample in samples)
    events = [
        Event(rank, stream_of(name), name, start_s - zero_s, end_s - zero_s)
        for rank, sample in enumerate(samples[::ranks])
        for name, start_s, end_s in sample.marks
    ]
    return Run(step_s=step_s, events=tuple(events), source="measured")


def _on_one_clock(samples: Sequence[Sample]) -> list[Sample]:
    """The times from the start of each step, which all ranks begin together.

    For ranks on machines whose clocks have nothing to do with each other.
    """
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1:
        return list(samples)
    return [
        Sample(
            0.0,
            end_s - zero_s,
            loss,
            [(name, start - zero_s, end - zero_s) for name, start, end in marks],
        )
        for zero_s, end_s, loss, marks in samples
    ]


def step_seconds(samples: Sequence[Sample]) -> float:
    """Seconds from the start of the first rank to the end of the last one."""
    return max(s.end_s for s in samples) - min(s.start_s for s in samples)


def stream_of(name: str) -> str:
    """The stream of an event: what data parallelism does on its own is not computation."""
    return "data-parallel" if name.startswith((GATHER, REDUCE)) else "compute"


def train_alone(
    chain: Chain, batch: tuple[torch.Tensor, torch.Tensor], device: torch.device, steps: int
) -> list[float]:
    """The losses of the same training in one process without a plan."""
    # Tied parameters once.
    parameters = list(nn.ModuleList(chain.layers).to(device).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    inputs, targets = (part.to(device) for part in batch)
    losses = []
    for _ in range(steps):
        values = inputs
        for layer in chain.layers:
            values = layer(values)
        loss = chain.loss_fn(values, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
