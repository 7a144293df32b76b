"""One rank of a large job, run alone: torch's fake process group and tensors without values.

The rank makes its part of the model by the parts of torch that would run (`fully_shard`, DTensor,
checkpointing), checks the shapes between the stages, and runs its own instruction list forward and
backward; collectives return at once. Counted are the parameters that it holds and the bytes of its
tensors at their fullest (`parplan.backend.proxies.storage_tracker`).
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel

from parplan.backend.executable import check_executable
from parplan.backend.models.gpt import gpt_layers, language_loss
from parplan.backend.proxies.storage_tracker import StorageTracker
from parplan.backend.runtime.groups import make_groups
from parplan.backend.runtime.pipeline import PipelineStep
from parplan.backend.workers.processes import num_processes
from parplan.errors import ParplanError
from parplan.sim.plan import Plan, check_plan
from parplan.sim.programs.instructions import RankActions
from parplan.sim.schedules import make_schedule
from parplan.sim.workload import Workload

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualRank:
    """Parameters and memory of one rank in a dry run."""

    rank: int
    pipeline_rank: int
    parameters: int
    """Its parts of them; tied ones of several stages count where they lie."""
    parameter_bytes: int
    gradient_bytes: int
    """After its step."""
    activation_bytes: int
    """At the fullest moment beside parameters and gradients: what is saved, recomputed, gathered,
    and worked with."""


def first_ranks(plan: Plan) -> list[int]:
    """The first rank of every pipeline stage."""
    width = plan.num_devices // plan.num_stages
    return list(range(0, plan.num_devices, width))


def virtual_ranks(workload: Workload, plan: Plan, ranks: Sequence[int]) -> Iterator[VirtualRank]:
    """Run the steps of these ranks, one after the other, in parplan's own layers.

    Parameters are in the precision of the workload, as a rank computes with them. Raises
    `ParplanError` for plans and models that cannot be executed, for shapes that do not fit, and
    where this process is one of several already.
    """
    if num_processes() > 1 or dist.is_initialized():
        raise ParplanError("virtual ranks: this process has a process group already")
    check_plan(plan, workload, plan.num_devices)
    check_executable(plan, plan.num_devices)
    # A process for each: what torch remembers of a process group outlives it.
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        yield from pool.imap(_simulate_alone, [(workload, plan, rank) for rank in ranks])


def _simulate_alone(given: tuple[Workload, Plan, int]) -> VirtualRank:
    workload, plan, rank = given
    torch.set_num_threads(1)
    with _fake_group(rank, plan.num_devices):
        return _simulate(workload, plan, rank)


@contextlib.contextmanager
def _fake_group(rank: int, world: int) -> Iterator[None]:
    # Importing it registers the backend. It is torch's own, for tests.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _simulate(workload: Workload, plan: Plan, rank: int) -> VirtualRank:
    groups = make_groups(plan, CPU)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(workload.precision, torch.float32)
    before = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(dtype)
        try:
            layers = gpt_layers(workload.model, workload.seq_len, workload.attention)
        finally:
            torch.set_default_dtype(before)
        size = plan.batch_per_device
        tokens = torch.zeros(size, workload.seq_len, dtype=torch.int64)
        step = PipelineStep(
            layers=layers,
            plan=plan,
            loss_fn=language_loss,
            example_micro_batch=tokens,
            device=CPU,
            groups=groups,
        )
        actions = make_schedule(
            plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
        )[groups.pipeline_rank]
        peak = _RankSimulator(step, tokens).simulate(actions)
        parameters = [_local(p) for p in step.parameters()]
        gradients = [_local(p.grad) for p in step.parameters() if p.grad is not None]
    return VirtualRank(
        rank=rank,
        pipeline_rank=groups.pipeline_rank,
        parameters=sum(p.numel() for p in parameters),
        parameter_bytes=sum(map(_num_bytes, parameters)),
        gradient_bytes=sum(map(_num_bytes, gradients)),
        activation_bytes=peak,
    )


class _RankSimulator:
    """Plays instruction lists on the stages of one rank."""

    def __init__(self, step: PipelineStep, tokens: torch.Tensor) -> None:
        self.step, self.tokens = step, step.own_tokens(tokens)
        self.outputs: dict[tuple[int, int], torch.Tensor] = {}
        self.tracker = StorageTracker()
        own = step.wrapped.values()
        with self.tracker:
            self.tracker.add(_local(t) for m in own for t in (*m.parameters(), *m.buffers()))
        self.parameter_bytes = self.tracker.live_bytes
        self.peak = 0

    def simulate(self, actions: RankActions) -> int:
        """The most bytes beside parameters and gradients, at any moment."""
        split = self.step.plan.tensor_parallel > 1
        with loss_parallel() if split else contextlib.nullcontext():
            for stage, op, micro_batch in actions:
                with self.tracker:
                    self.tracker.reset_peak()
                    if op == "F":
                        self.outputs[stage, micro_batch] = self._forward(stage)
                    elif op in "BW":  # what is split off as I is freed by W
                        self._backward(stage, self.outputs.pop((stage, micro_batch)))
                held = self.parameter_bytes + self._gradient_bytes()
                self.peak = max(self.peak, self.tracker.peak_bytes - held)
        return self.peak

    def _forward(self, stage: int) -> torch.Tensor:
        last = stage == self.step.num_stages - 1
        values = self.tokens
        if stage > 0:
            shape = self.step.shapes[stage]
            values = torch.empty(shape.shape, dtype=shape.dtype, requires_grad=True)
        output: torch.Tensor = self.step.wrapped[stage](values)
        if last:
            return self.step.loss_fn(output, self.tokens)
        expected = self.step.shapes[stage + 1]
        if (output.shape, output.dtype) != (expected.shape, expected.dtype):
            raise ParplanError(
                f"stage {stage}: sends {tuple(output.shape)} of {output.dtype}, but stage "
                f"{stage + 1} takes {tuple(expected.shape)} of {expected.dtype}"
            )
        return output

    def _backward(self, stage: int, output: torch.Tensor) -> None:
        torch.autograd.backward(output, torch.ones_like(output))

    def _gradient_bytes(self) -> int:
        return sum(_num_bytes(_local(p.grad)) for p in self.step.parameters() if p.grad is not None)


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
