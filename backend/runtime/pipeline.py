"""A training step of a plan on torch: pipeline, replicas and shards, split layers, micro-batches.

Only this file and `backend.marked_stage` use torch.distributed.pipelining. Its runtime runs our
instruction lists (`parplan.sim.schedules`) and adds the messages itself. Ranks are placed by
`backend.groups`.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor.parallel import loss_parallel
from torch.optim import Optimizer

from parplan.backend.executable import check_executable, reduces_by_hooks
from parplan.backend.models.boundary_shapes import boundary_shapes, part_shapes
from parplan.backend.models.chain import LossFunction
from parplan.backend.models.partition import cut
from parplan.backend.models.sequence_part import check_spreadable, spread
from parplan.backend.runtime.batch_division import divide
from parplan.backend.runtime.groups import Groups, make_groups
from parplan.backend.runtime.recorded_stage import Clock, Mark, MarkedRuntime, MarkedStage
from parplan.backend.runtime.sharding import (
    free_gathered,
    kept_gradients,
    make_optimizer,
    no_reduction,
    replicate,
)
from parplan.backend.runtime.tensor_parallel import check_splittable, loss_of_parts, split
from parplan.backend.runtime.tied_parameters import TiedGradients, check_ties, find_ties, tie_again
from parplan.backend.workers.processes import num_processes
from parplan.errors import ParplanError
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import Schedule, rank_of_stages, write_csv
from parplan.sim.programs.validate import check_program
from parplan.sim.schedules import make_schedule


class StageModule(nn.Module):
    """The layers of one stage, in the precision of the plan."""

    def __init__(self, layers: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.layers = layers
        self.device_type = device.type
        self.bf16 = precision == "bf16"

    def forward(self, values: torch.Tensor) -> Any:
        """The outputs of the last layer."""
        with self.precision():
            return self.layers(values)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The plan's bfloat16; else what the caller has asked for, such as its own autocast."""
        if self.bf16:
            return torch.autocast(self.device_type, torch.bfloat16)
        return contextlib.nullcontext()


class Planned(Protocol):
    """A model that is trained by a plan."""

    plan: Plan
    device: torch.device
    clock: Clock

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """This process's stages."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """This process's, or its parts of them."""

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether `optimizer` is of the whole model's parameters, wherever these are."""


class PipelineStep:
    """This rank's part of a plan: runs training steps, accumulates gradients.

    `layers`: the chain of the whole model, the same objects or equal values on every rank; the
    layers of other ranks are not kept. `num_first` and `num_last` layers before and after the
    blocks. `example_micro_batch`: inputs of one micro-batch, for the shapes between the stages.
    `groups`: those of another plan of the same sizes (`parplan.backend.runtime.groups.sizes_of`).
    The loss is the mean over the global batch, if `loss_fn` is the mean over a micro-batch.
    Raises `ParplanError` when model, plan and process group do not fit each other.
    """

    def __init__(
        self,
        *,
        layers: Sequence[nn.Module],
        plan: Plan,
        loss_fn: LossFunction,
        example_micro_batch: torch.Tensor,
        device: torch.device,
        num_first: int = 1,
        num_last: int = 1,
        precision: str = "fp32",
        mark: Mark | None = None,
        schedule: Schedule | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.plan, self.loss_fn, self.device = plan, loss_fn, device
        self.clock = Clock(device, mark)
        self.given_schedule = schedule
        check_executable(plan, num_processes(), own_lists=schedule is not None)
        if plan.tensor_parallel > 1:
            check_splittable(layers, plan.tensor_parallel)
        if plan.context_parallel > 1:
            check_spreadable(layers, plan.context_parallel, example_micro_batch)
        stages = cut(layers, plan, num_first, num_last)
        modules = [StageModule(stage, device, precision) for stage in stages]
        self.shapes = boundary_shapes(modules, example_micro_batch)
        self.shapes_precision = _precision_now(device)
        self.precision = modules[0].precision
        self.gradient_scale = 1.0
        """What the loss is multiplied by in the backward."""
        self.loss_dtype = _loss_dtype(layers)
        self.groups = make_groups(plan, device) if groups is None else groups
        on_rank = rank_of_stages(self._schedule(plan.num_micro_batches))
        own = [i for i in range(len(modules)) if on_rank[i] == self.groups.pipeline_rank]
        ties = find_ties(modules)
        check_ties(ties, on_rank, plan)
        self.modules: Mapping[int, StageModule] = {
            index: _moved(modules[index], device) for index in own
        }
        if plan.tensor_parallel > 1:
            self._split(layers)
            tie_again(ties, own)
        if self.groups.context is not None:
            spread(layers, self.groups.context)
        self.shapes = part_shapes(self.shapes, plan)
        self.wrapped: dict[int, nn.Module] = {
            index: replicate(module, module.layers.children(), plan, self.groups)
            for index, module in self.modules.items()
        }
        self.tied = TiedGradients(ties, on_rank, self.groups)
        self._known = [p for layer in layers for p in layer.parameters()]
        self.weights: tuple[float, ...] = ()
        self.losses: list[torch.Tensor] = []
        self.runtimes: dict[tuple[Any, ...], MarkedRuntime] = {}

    def _split(self, layers: Sequence[nn.Module]) -> None:
        """Keep this rank's part of each of its layers, and of what passes between the stages."""
        mesh = self.groups.part("tensor")
        own = {id(m) for module in self.modules.values() for m in module.modules()}
        for layer in layers:
            if id(layer) in own:
                split(layer, mesh, self.plan.sequence_parallel)
        self.loss_fn = loss_of_parts(self.loss_fn, mesh)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of this rank's stages, or its parts of them, each once."""
        yield from nn.ModuleList(self.modules.values()).parameters()

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether `optimizer` is of the whole model's parameters, wherever these are."""
        known = {id(p) for p in (*self._known, *self.parameters())}
        return any(id(p) in known for group in optimizer.param_groups for p in group["params"])

    def optimizer(self, kind: type[Optimizer], **settings: Any) -> Optimizer:
        """An optimizer of `parameters`, with its state sharded if the plan says so."""
        return make_optimizer(self.parameters(), self.plan, self.groups, kind, **settings)

    def received_bytes(self) -> int:
        """Bytes of this rank's receive buffers for one micro-batch and its gradients."""
        infos = [
            info
            for runtime in self.runtimes.values()
            for stage in runtime._stages
            for of_chunk in (stage.args_recv_info, stage.grad_recv_info)
            for info in of_chunk.get(0, ())
        ]
        buffers = [info.buffer for info in infos if info.buffer is not None]
        return sum(buffer.untyped_storage().nbytes() for buffer in buffers)

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return self.plan.total_stages

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Forward and backward over the global batch; returns its mean loss, equal on all ranks.

        Every rank passes the same global batch. Gradients of the mean loss are added to `.grad`;
        the caller steps the optimizer. Another batch than planned is divided as
        `parplan.backend.runtime.batch_division` says.
        """
        return self._run(inputs, targets, train=True)

    @torch.no_grad()
    def evaluate(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a global batch, equal on all ranks, without gradients."""
        return self._run(inputs, targets, train=False)

    def _run(self, inputs: torch.Tensor, targets: torch.Tensor, train: bool) -> torch.Tensor:
        rows, micro_batches, self.weights = self._own_rows(len(inputs))
        inputs, targets = (self.own_tokens(part[rows]) for part in (inputs, targets))
        run = self._run_alone if self.num_stages == 1 else self._run_pipeline
        split = self.plan.tensor_parallel > 1
        with loss_parallel() if split else contextlib.nullcontext():
            local = run(inputs, targets, micro_batches, train)
        if not train:
            for module in self.modules.values():
                free_gathered(module)
        loss = (local / (self.plan.replicas * self.plan.tensor_parallel)).to(self.loss_dtype)
        if self.plan.num_devices > 1:
            dist.all_reduce(loss)
        return loss

    def own_tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """Of these rows the part along the sequence that is this process's, on its device."""
        part = self.groups.context
        return (rows if part is None else part.own(rows)).to(self.device)

    def num_parts(self, batch: int) -> int:
        """Micro-batches that a global batch of so many rows is divided into, over all replicas."""
        plan = self.plan
        return divide(batch, plan, 0).num_parts

    def _own_rows(self, batch: int) -> tuple[Any, int, tuple[float, ...]]:
        """The rows of the batch that this replica computes, in how many micro-batches.

        And what the loss of each counts for.
        """
        found = divide(batch, self.plan, self.groups.data_rank)
        return found.rows, found.micro_batches, found.weights

    def _run_alone(
        self, inputs: torch.Tensor, targets: torch.Tensor, micro_batches: int, train: bool
    ) -> torch.Tensor:
        """Without a pipeline: one micro-batch after the other, gradients reduced in the last."""
        module, total = self.wrapped[0], self._no_loss()
        parts = zip(inputs.chunk(micro_batches), targets.chunk(micro_batches), strict=True)
        for index, (values, wanted) in enumerate(parts):
            reduce_later = train and index < micro_batches - 1
            with no_reduction(module) if reduce_later else contextlib.nullcontext():
                start = self.clock.now()
                loss = self._weighted_loss(module(values), wanted, index)
                self.clock.tell("F", 0, index, start)
                total += loss.detach()
                if train:
                    start = self.clock.now()
                    torch.autograd.backward(loss * self.gradient_scale)
                    self.clock.tell("B", 0, index, start)
        return total

    def _run_pipeline(
        self, inputs: torch.Tensor, targets: torch.Tensor, micro_batches: int, train: bool
    ) -> torch.Tensor:
        """One pass of torch's runtime; the losses are on the ranks of the last stage alone."""
        shape = (micro_batches, inputs.shape, inputs.dtype, _precision_now(self.device))
        if shape not in self.runtimes:
            self.runtimes[shape] = self._make_runtime(inputs, micro_batches)
        runtime = self.runtimes[shape]
        self.losses.clear()
        first = 0 in self.wrapped
        last = self.num_stages - 1 in self.wrapped
        args = (inputs,) if first else ()
        target = targets if last else None
        with kept_gradients(self.parameters()):
            if train:
                runtime.step(*args, target=target, losses=[], return_outputs=False)
                self.tied.add_up()
            else:
                runtime.eval(*args, target=target, losses=[])
        total = self._no_loss()
        for loss in self.losses:
            total += loss
        return total

    def _no_loss(self) -> torch.Tensor:
        return torch.zeros((), device=self.device, dtype=self.loss_dtype)

    def _weighted_loss(
        self, outputs: torch.Tensor, targets: torch.Tensor, index: int
    ) -> torch.Tensor:
        """What a micro-batch adds to the mean loss of this replica."""
        with self.precision():
            return self.loss_fn(outputs, targets) * self.weights[index]

    def _schedule(self, micro_batches: int) -> Schedule:
        plan = self.plan
        if self.given_schedule is not None and micro_batches == plan.num_micro_batches:
            check_program(self.given_schedule, plan.total_stages, micro_batches)
            _check_reduction(self.given_schedule, plan)
            return self.given_schedule
        return make_schedule(plan.schedule, plan.num_stages, micro_batches, plan.virtual_stages)

    def _make_runtime(self, inputs: torch.Tensor, micro_batches: int) -> MarkedRuntime:
        micro_batch = inputs.chunk(micro_batches)[0]
        shapes = self._shapes_for(micro_batch)
        stages = []
        for index, module in self.wrapped.items():
            stage = MarkedStage(
                module,
                index,
                self.num_stages,
                self.device,
                input_args=shapes[index] if shapes else None,
                output_args=shapes[index + 1] if shapes else None,
                group=self.groups.group("pipeline"),
            )
            stage.clock = self.clock
            stages.append(stage)

        def mean_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            begun = stages[-1].begun  # None where torch tries the loss out
            loss = self._weighted_loss(outputs, targets, begun[0] if begun else 0)
            if begun:
                self.losses.append(loss.detach())
            stages[-1].forward_done()
            return loss * self.gradient_scale

        runtime = MarkedRuntime(  # type: ignore[no-untyped-call]
            stages, micro_batches, loss_fn=mean_loss, scale_grads=False
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "schedule.csv"
            path.write_text(write_csv(self._schedule(micro_batches)), encoding="utf-8")
            runtime._load_csv(str(path), format="compute_only")
        return runtime

    def _shapes_for(self, micro_batch: torch.Tensor) -> list[torch.Tensor] | None:
        """Return the shapes sent between the stages for such a micro-batch.

        None if torch has to infer them.
        """
        planned = len(self.shapes[0])
        if micro_batch.shape[1:] != self.shapes[0].shape[1:]:
            return None
        if _precision_now(self.device) != self.shapes_precision:
            return None
        if len(micro_batch) == planned:
            return self.shapes
        if any(len(shape) != planned for shape in self.shapes):
            return None
        return [
            shape.new_empty(len(micro_batch), *shape.shape[1:]).requires_grad_(shape.requires_grad)
            for shape in self.shapes
        ]


def _precision_now(device: torch.device) -> torch.dtype | None:
    """The type that the caller's autocast computes in; None without one."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None


def _loss_dtype(layers: Sequence[nn.Module]) -> torch.dtype:
    """That of the parameters, at least single precision."""
    for parameter in nn.ModuleList(layers).parameters():
        if parameter.dtype.is_floating_point:
            return torch.promote_types(parameter.dtype, torch.float32)
    return torch.get_default_dtype()


def _moved(module: StageModule, device: torch.device) -> StageModule:
    """`module` on `device`; fake parameters, which cannot be moved, are there already."""
    there = all(tensor.device == device for tensor in (*module.parameters(), *module.buffers()))
    return module if there else module.to(device)


def _check_reduction(schedule: Schedule, plan: Plan) -> None:
    """Raise `ParplanError` for a split backward whose gradients torch would not reduce."""
    splits = any(action.op in ("I", "W") for actions in schedule for action in actions)
    wrong = reduces_by_hooks(plan) or plan.distribute_low_prec_param
    if splits and wrong and plan.replicas > 1:
        raise ParplanError(
            f"schedule: splits the backward, which data_parallel {plan.data_parallel} can only "
            "execute with distribute_gradient (ZeRO-2)"
        )
