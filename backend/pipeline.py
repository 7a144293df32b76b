"""A training step of a plan on torch: pipeline, data parallel, micro-batches.

The only file that uses torch.distributed.pipelining. Its runtime plays our instruction lists
(`parplan.sim.schedules`) and adds the messages itself. Global rank r is data-parallel rank
r % data_parallel of pipeline rank r // data_parallel.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime
from torch.nn.parallel import DistributedDataParallel

from parplan.backend.partition import cut
from parplan.hardware.errors import ParplanError
from parplan.sim.instructions import Schedule, rank_of_stages, write_csv
from parplan.sim.plan import Plan
from parplan.sim.schedules import make_schedule
from parplan.sim.validate import check_program

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> the mean loss of a micro-batch."""

Mark = Callable[[str, int, int, float, float], None]
"""(kind F, B, I or W; stage; micro-batch; start, end in seconds of `time.perf_counter`)."""


class StageModule(nn.Module):
    """The layers of one stage, in the precision of the plan."""

    def __init__(self, layers: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.layers = layers
        self.device_type = device.type
        self.bf16 = precision == "bf16"

    def forward(self, values: torch.Tensor) -> Any:
        """The outputs of the last layer."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.layers(values)


class _MarkedStage(PipelineStage):
    """A stage that tells when it computes. The last one's forward ends with the loss."""

    clock: "_Clock"
    begun: tuple[int, float] | None = None
    """Micro-batch and start of a forward whose loss is not computed yet."""

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.begun = (fwd_chunk_id, self.clock.now())
        output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        if not self.is_last:
            self.forward_done()
        return output

    def forward_done(self) -> None:
        if self.begun is not None:  # None when torch tries the loss out to learn shapes
            self.clock.tell("F", self.stage_index, *self.begun)
            self.begun = None

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        start_s = self.clock.now()
        result = super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        kind = "B" if kwargs.get("full_backward", True) else "I"
        if self.has_backward:
            self.clock.tell(kind, self.stage_index, bwd_chunk_id, start_s)
        return result

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        start_s = self.clock.now()
        result = super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)
        if self.has_backward:
            self.clock.tell("W", self.stage_index, bwd_chunk_id, start_s)
        return result

    # Where neighbouring stages share a rank, torch hands gradients over in evaluation as well, and
    # fails because there are none (torch 2.13).
    def get_local_bwd_output(self, mb_index: int) -> Any:
        if not self.has_backward:
            return ()
        return super().get_local_bwd_output(mb_index)  # type: ignore[no-untyped-call]

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)


class _Clock:
    """Reads the time for the marks; waits for the device only when somebody listens."""

    def __init__(self, device: torch.device, mark: Mark | None) -> None:
        self.device = device
        self.mark = mark

    def now(self) -> float:
        if self.mark is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def tell(self, kind: str, stage: int, micro_batch: int, start_s: float) -> None:
        if self.mark is not None:
            self.mark(kind, stage, micro_batch, start_s, self.now())


class PipelineStep:
    """This rank's part of a plan: runs training steps, accumulates gradients.

    `layers`: the chain of the whole model, the same objects or equal values on every rank; the
    layers of other ranks are not kept. `num_first` and `num_last` layers before and after the
    blocks. `example_micro_batch`: inputs of one micro-batch, for the shapes between the stages.
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
    ) -> None:
        self.plan, self.loss_fn, self.device = plan, loss_fn, device
        self.clock = _Clock(device, mark)
        self.given_schedule = schedule
        _check_executable(plan)
        _check_world(plan)
        stages = cut(layers, plan, num_first, num_last)
        modules = [StageModule(stage, device, precision) for stage in stages]
        self.shapes = boundary_shapes(modules, example_micro_batch)
        pp_size, dp_size = plan.num_stages, plan.data_parallel
        rank = dist.get_rank() if plan.num_devices > 1 else 0
        self.pp_rank, self.dp_rank = divmod(rank, dp_size)
        mesh = None
        if plan.num_devices > 1:
            mesh = init_device_mesh(device.type, (pp_size, dp_size), mesh_dim_names=("pp", "dp"))
        self.pp_group = mesh.get_group("pp") if mesh else None
        dp_group = mesh.get_group("dp") if mesh else None
        on_rank = rank_of_stages(self._schedule(plan.num_micro_batches))
        own = [index for index in range(len(modules)) if on_rank[index] == self.pp_rank]
        self.modules = {index: modules[index].to(device) for index in own}
        self.wrapped: dict[int, nn.Module] = dict(self.modules)
        if dp_size > 1:
            for index in own:
                if any(p.requires_grad for p in self.modules[index].parameters()):
                    self.wrapped[index] = DistributedDataParallel(
                        self.modules[index], process_group=dp_group
                    )
        self.runtimes: dict[tuple[Any, ...], _PipelineScheduleRuntime] = {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of this rank's stages."""
        for module in self.modules.values():
            yield from module.parameters()

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return self.plan.total_stages

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Forward and backward over the global batch; returns its mean loss, equal on all ranks.

        Every rank passes the same global batch. Gradients of the mean loss are added to `.grad`;
        the optimizer is the caller's. Another batch than planned is divided into as many
        micro-batches as fit, up to the plan's; raises `ParplanError` if data_parallel does not
        divide it.
        """
        return self._run(inputs, targets, train=True)

    @torch.no_grad()
    def evaluate(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a global batch, equal on all ranks, without gradients."""
        return self._run(inputs, targets, train=False)

    def _run(self, inputs: torch.Tensor, targets: torch.Tensor, train: bool) -> torch.Tensor:
        rows, micro_batches = self._own_rows(len(inputs))
        inputs, targets = inputs[rows].to(self.device), targets[rows].to(self.device)
        if self.num_stages == 1:
            local = self._run_alone(inputs, targets, micro_batches, train)
        else:
            local = self._run_pipeline(inputs, targets, micro_batches, train)
        loss = local / self.plan.data_parallel
        if self.plan.num_devices > 1:
            dist.all_reduce(loss)
        return loss

    def _own_rows(self, batch: int) -> tuple[slice, int]:
        """The rows of the batch that this replica computes, and in how many micro-batches."""
        own, rest = divmod(batch, self.plan.data_parallel)
        if rest or own == 0:
            raise ParplanError(
                f"batch of {batch}: must be a multiple of data_parallel {self.plan.data_parallel} "
                "(a DataLoader drops a smaller last batch with drop_last=True)"
            )
        limit = min(own, self.plan.num_micro_batches)
        micro_batches = next(m for m in range(limit, 0, -1) if own % m == 0)
        return slice(self.dp_rank * own, (self.dp_rank + 1) * own), micro_batches

    def _run_alone(
        self, inputs: torch.Tensor, targets: torch.Tensor, micro_batches: int, train: bool
    ) -> torch.Tensor:
        """Without a pipeline: one micro-batch after the other, gradients reduced in the last."""
        module, total = self.wrapped[0], torch.zeros((), device=self.device)
        parts = zip(inputs.chunk(micro_batches), targets.chunk(micro_batches), strict=True)
        for index, (values, wanted) in enumerate(parts):
            reduce_later = train and index < micro_batches - 1
            with _no_sync(module) if reduce_later else contextlib.nullcontext():
                start_s = self.clock.now()
                loss = self.loss_fn(module(values), wanted) / micro_batches
                self.clock.tell("F", 0, index, start_s)
                total += loss.detach()
                if train:
                    start_s = self.clock.now()
                    loss.backward()  # type: ignore[no-untyped-call]
                    self.clock.tell("B", 0, index, start_s)
        return total

    def _run_pipeline(
        self, inputs: torch.Tensor, targets: torch.Tensor, micro_batches: int, train: bool
    ) -> torch.Tensor:
        """One pass of torch's runtime; the losses are on the ranks of the last stage alone."""
        shape = (micro_batches, inputs.shape, inputs.dtype)
        if shape not in self.runtimes:
            self.runtimes[shape] = self._make_runtime(inputs, micro_batches)
        runtime, losses = self.runtimes[shape], list[torch.Tensor]()
        first = 0 in self.wrapped
        last = self.num_stages - 1 in self.wrapped
        args = (inputs,) if first else ()
        target = targets if last else None
        if train:
            runtime.step(*args, target=target, losses=losses, return_outputs=False)
        else:
            runtime.eval(*args, target=target, losses=losses)
        total = torch.zeros((), device=self.device)
        for loss in losses:
            total += loss.detach()
        return total

    def _schedule(self, micro_batches: int) -> Schedule:
        plan = self.plan
        if self.given_schedule is not None and micro_batches == plan.num_micro_batches:
            check_program(self.given_schedule, plan.total_stages, micro_batches)
            return self.given_schedule
        return make_schedule(plan.schedule, plan.num_stages, micro_batches)

    def _make_runtime(self, inputs: torch.Tensor, micro_batches: int) -> _PipelineScheduleRuntime:
        micro_batch = inputs.chunk(micro_batches)[0]
        shapes = self._shapes_for(micro_batch)
        stages = []
        for index, module in self.wrapped.items():
            stage = _MarkedStage(
                module,
                index,
                self.num_stages,
                self.device,
                input_args=shapes[index] if shapes else None,
                output_args=shapes[index + 1] if shapes else None,
                group=self.pp_group,
            )
            stage.clock = self.clock
            stages.append(stage)

        def mean_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            loss = self.loss_fn(outputs, targets) / micro_batches
            stages[-1].forward_done()
            return loss

        runtime = _PipelineScheduleRuntime(  # type: ignore[no-untyped-call]
            stages, micro_batches, loss_fn=mean_loss, scale_grads=False
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "schedule.csv"
            path.write_text(write_csv(self._schedule(micro_batches)), encoding="utf-8")
            runtime._load_csv(str(path), format="compute_only")
        return runtime

    def _shapes_for(self, micro_batch: torch.Tensor) -> list[torch.Tensor] | None:
        """What passes between the stages for such a micro-batch; None: torch has to find out."""
        planned = len(self.shapes[0])
        if micro_batch.shape[1:] != self.shapes[0].shape[1:]:
            return None
        if len(micro_batch) == planned:
            return self.shapes
        if any(len(shape) != planned for shape in self.shapes):
            return None
        return [
            shape.new_empty(len(micro_batch), *shape.shape[1:]).requires_grad_(shape.requires_grad)
            for shape in self.shapes
        ]


def _no_sync(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Gradients of this pass stay local."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


def _check_executable(plan: Plan) -> None:
    """Raise `ParplanError` for what this executor does not do yet."""
    refused = {
        f"tensor_parallel {plan.tensor_parallel}": plan.tensor_parallel > 1,
        "distribute_param": plan.distribute_param,
    }
    for what, given in refused.items():
        if given:
            raise ParplanError(f"plan: {what} cannot be executed yet, only predicted")


def _check_world(plan: Plan) -> None:
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if plan.num_devices != world:
        raise ParplanError(
            f"plan: num_stages {plan.num_stages} x data_parallel {plan.data_parallel} = "
            f"{plan.num_devices} processes, but {world} run"
        )


def boundary_shapes(stages: Sequence[nn.Module], example: torch.Tensor) -> list[torch.Tensor]:
    """What goes into each stage and out of the last one, on the meta device.

    Raises `ParplanError` naming the stage that fails or returns anything but one tensor.
    """
    shapes = [example.to("meta")]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        values: Any = mode.from_tensor(example)
        for index, stage in enumerate(stages):
            try:
                values = stage(values)
            except Exception as error:
                text = str(error).strip().splitlines()
                raise ParplanError(
                    f"stage {index}: fails on inputs of shape {tuple(shapes[-1].shape)}: "
                    f"{text[0] if text else type(error).__name__}"
                ) from error
            if not isinstance(values, torch.Tensor):
                raise ParplanError(
                    f"stage {index}: a pipeline passes one tensor between layers, "
                    f"got {type(values).__name__}"
                )
            meta = torch.empty_strided(
                values.shape, values.stride(), dtype=values.dtype, device="meta"
            )
            shapes.append(meta)
    for shape in shapes[1:]:
        shape.requires_grad_()
    return shapes
