"""Training steps written by hand with torch alone, for single plans: what the backend costs more.

Data parallelism by DistributedDataParallel, and a pipeline by torch's own `Schedule1F1B`: the same
layers, batch and optimizer as the plan, nothing of parplan in the step.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

from parplan.backend.execution.trial_run import LEARNING_RATE
from parplan.backend.models.chain import Chain
from parplan.sim.plan import Plan

Batch = tuple[torch.Tensor, torch.Tensor]


class HandWrittenRun:
    """One of them, ready to be timed beside its plan."""

    def __init__(self, name: str, train: Callable[[], None], device: torch.device) -> None:
        self.name, self.train, self.device = name, train, device
        self.samples: list[tuple[float, float]] = []

    def step(self) -> None:
        """One whole training step, begun by all ranks together."""
        dist.barrier()
        start_s = self._now()
        self.train()
        self.samples.append((start_s, self._now()))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, everyone: Sequence[Sequence[tuple[float, float]]]) -> list[float]:
        """Return the seconds of every step, given the samples of all processes."""
        return [
            max(end for _, end in step) - min(start for start, _ in step)
            for step in zip(*everyone, strict=True)
        ]


def hand_written(
    plan: Plan, chain: Chain, batch: Batch, device: torch.device
) -> HandWrittenRun | None:
    """The fp32 loop for `plan`, if there is one: its chain is used up."""
    plain = (
        plan.tensor_parallel * plan.context_parallel == 1
        and plan.zero_stage == 0
        and plan.recomputation == "none"
    )
    if not plain or plan.num_devices != dist.get_world_size():
        return None
    if plan.num_stages == 1 and plan.num_micro_batches == 1:
        return HandWrittenRun(
            "DistributedDataParallel", _data_parallel(chain, batch, device), device
        )
    if plan.data_parallel == 1 and plan.schedule == "1f1b" and plan.virtual_stages == 1:
        return HandWrittenRun("Schedule1F1B", _pipeline(plan, chain, batch, device), device)
    return None


def _data_parallel(chain: Chain, batch: Batch, device: torch.device) -> Callable[[], None]:
    model = DistributedDataParallel(nn.Sequential(*chain.layers).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rank, world = dist.get_rank(), dist.get_world_size()
    inputs, targets = (part.chunk(world)[rank].to(device) for part in batch)

    def train() -> None:
        loss = chain.loss_fn(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return train


def _pipeline(plan: Plan, chain: Chain, batch: Batch, device: torch.device) -> Callable[[], None]:
    rank, last = dist.get_rank(), plan.num_stages - 1
    counts = list(plan.layers_of_stages(chain.num_blocks))
    counts[0] += chain.num_first
    counts[last] += chain.num_last
    first = sum(counts[:rank])
    module = nn.Sequential(*chain.layers[first : first + counts[rank]]).to(device)
    stage = PipelineStage(module, rank, plan.num_stages, device)
    schedule = Schedule1F1B(stage, plan.num_micro_batches, loss_fn=chain.loss_fn, scale_grads=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    inputs, targets = (part.to(device) for part in batch)
    args: tuple[Any, ...] = (inputs,) if rank == 0 else ()
    target = targets if rank == last else None

    def train() -> None:
        schedule.step(*args, target=target, losses=[], return_outputs=False)
        optimizer.step()
        optimizer.zero_grad()

    return train
