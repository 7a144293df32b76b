"""One line in an ordinary training script: the model trains by the best plan for this machine."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from parplan.backend.chain import Chain, check_chain, find_chain
from parplan.backend.choose import choose_plan, executable_plans
from parplan.backend.executable import check_executable, reduces_by_hooks
from parplan.backend.layer_times import Setting, measure_layers
from parplan.backend.machine import measure_machine
from parplan.backend.pipeline import LossFunction, PipelineStep
from parplan.backend.processes import (
    agree,
    broadcast_weights,
    check_same_batch,
    is_first,
    join_processes,
    num_processes,
)
from parplan.hardware.errors import ParplanError
from parplan.hardware.files import write_whole
from parplan.planners import ap_log
from parplan.planners.options import Options, settings_from_environment, switched_off
from parplan.sim.plan import Plan

M = TypeVar("M", bound=nn.Module)

LOG = logging.getLogger("parplan")


def enable_advanced_parallelization(
    model: M,
    *,
    pipeline_parallel: bool = True,
    num_stages: int | Literal["auto"] = "auto",
    num_micro_batches: int | Literal["auto"] = "auto",
    activation_recomputation: bool | Literal["auto"] = "auto",
    distribute_parameter: bool | Literal["auto"] = "auto",
    mixed_precision: bool = False,
    plan: Plan | None = None,
    layers: Sequence[nn.Module] | None = None,
    loss_fn: LossFunction | None = None,
    example: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> M:
    """Make `model` train by a plan over the processes that torchrun started; returns it.

    `model(inputs, targets)` returns the loss, and the training loop stays as it is. Every process
    runs the whole script and has to see the same global batch, as if it were alone; each computes
    its part, and all get the mean loss over the batch. The first six arguments are Advanced
    Parallelization's and restrict the search. `mixed_precision` (bfloat16) is off unless asked for,
    so that the script trains as it does without the line.

    plan: taken instead of searching. layers, loss_fn: the chain that the model consists of, and
    the mean loss of (outputs, targets); found in a model whose one `nn.Sequential` has all of its
    parameters. example: a global batch (inputs, targets) to plan with now; without it planning
    waits for the first batch, as AP does, because a plan depends on the batch's size.

    Parameters stay the objects they are, so an optimizer may be made before or after; but a plan
    that shards them (ZeRO-2 and -3) needs `example`, and the optimizer after the line. After
    planning, `model.parameters()` and `model.state_dict()` hold this process's part under the
    names of the whole model. A forward with gradients enabled runs the whole schedule; the
    `backward()` of its loss adds the gradients that are computed by then to `.grad`, scaled as the
    loss was.
    Raises `ParplanError` for what cannot be parallelised or executed, saying why.
    """
    if switched_off():
        return model
    _speak()
    if distribute_parameter is True:
        raise ParplanError(
            "distribute_parameter: sharded plans are not searched here, because their costs are "
            "not measured; use 'auto' or False, or pass one as plan=Plan(...)"
        )
    options = Options(
        pipeline_parallel=pipeline_parallel,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        activation_recomputation=activation_recomputation,
        distribute_parameter=False,
        mixed_precision=mixed_precision,
        **settings_from_environment(),  # type: ignore[arg-type]
    )
    if isinstance(model.forward, PlannedForward):
        raise ParplanError("this model is parallelised already")
    if plan is not None:
        _check_plan(plan, example is not None)
    chain = find_chain(model, layers, loss_fn)
    forward = PlannedForward(model, chain, options, plan, Path.cwd())
    model.forward = forward
    if example is not None:
        forward.prepare(*example)
    return model


class PlannedForward:
    """Takes the place of a model's forward: plans at the first batch, then runs the plan."""

    def __init__(
        self, model: nn.Module, chain: Chain, options: Options, plan: Plan | None, folder: Path
    ) -> None:
        self.model, self.chain, self.options, self.folder = model, chain, options, folder
        self.own_forward: Callable[..., Any] = model.forward
        self.plan = plan
        self.step: PipelineStep | None = None
        self.precision = "bf16" if options.mixed_precision else "fp32"
        self.device = join_processes()

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """The mean loss over the global batch, with gradients if they are enabled."""
        if not isinstance(inputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
            raise ParplanError(
                "a parallelised model is called as model(inputs, targets), two tensors, "
                "and returns the loss"
            )
        step = self.prepare(inputs, targets)
        if not torch.is_grad_enabled():
            return step.evaluate(inputs, targets)
        parameters = [p for p in step.parameters() if p.requires_grad]
        held = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            loss = step.step(inputs, targets)
            gradients = [p.grad for p in parameters]
        finally:
            for parameter, gradient in zip(parameters, held, strict=True):
                parameter.grad = gradient
        result: torch.Tensor = _Loss.apply(loss, gradients, *parameters)  # type: ignore[no-untyped-call]
        return result

    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> PipelineStep:
        """Plan for this global batch, once, and keep this process's part of the model."""
        if self.step is not None:
            return self.step
        check_same_batch(inputs, targets)
        broadcast_weights(self.model, self.device)
        check_chain(self.model, self.own_forward, self.chain, inputs, targets)
        if self.plan is None:
            self.plan = self._search(inputs, targets)
        plan = self.plan
        check_executable(plan, num_processes())
        _check_batch(plan, len(inputs))
        if is_first():
            self._announce(plan)
        self.step = PipelineStep(
            layers=self.chain.layers,
            plan=plan,
            loss_fn=self.chain.loss_fn,
            example_micro_batch=inputs[: plan.batch_per_device].to(self.device),
            device=self.device,
            num_first=self.chain.num_first,
            num_last=self.chain.num_last,
            precision=self.precision,
        )
        leave_out(self.model, self.chain.layers, self.step)
        return self.step

    def _search(self, inputs: torch.Tensor, targets: torch.Tensor) -> Plan:
        """Measure on all processes, choose on the first one."""
        chain, device = self.chain, self.device
        plans = executable_plans(num_processes(), chain.num_blocks, len(inputs), self.options)
        settings = sorted({Setting(p.batch_per_device, p.recomputation) for p in plans})
        blocks = range(chain.num_first, chain.num_first + chain.num_blocks)
        batch = inputs, targets
        times = measure_layers(
            chain.layers, chain.loss_fn, batch, settings, blocks, device, self.precision
        )
        own = max(1, len(inputs) // num_processes())
        micro_batch = inputs[:own], targets[:own]
        machine = measure_machine(chain, micro_batch, device, self.precision)
        return agree(lambda: choose_plan(plans, chain, times, machine, self.options))

    def _announce(self, plan: Plan) -> None:
        """AP's last lines, and its dump file where the script was started."""
        line = ap_log.selected_line(plan)
        write_whole(self.folder / ap_log.DUMP_NAME, f"{line}\n".encode())
        for text in (ap_log.SELECTED, line, "train: true"):
            LOG.info(text)


def _check_plan(plan: Plan, planned_now: bool) -> None:
    """Raise `ParplanError` for a given plan that an ordinary script cannot be trained by."""
    if plan.tensor_parallel > 1:
        raise ParplanError(
            f"plan: tensor_parallel {plan.tensor_parallel} splits parplan's own layers alone; "
            "run such a plan with parplan execute"
        )
    if plan.data_parallel == 1:
        return
    if plan.zero_stage == 1:
        raise ParplanError(
            "plan: distribute_param alone (ZeRO-1) shards the optimizer, which is the script's; "
            "add distribute_gradient"
        )
    if not planned_now and not reduces_by_hooks(plan):
        raise ParplanError(
            "plan: fully_shard replaces the parameters; pass example=(inputs, targets) and make "
            "the optimizer after this line"
        )


def _check_batch(plan: Plan, batch: int) -> None:
    planned = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    if planned != batch:
        raise ParplanError(
            f"plan: data_parallel {plan.data_parallel} x num_micro_batches "
            f"{plan.num_micro_batches} x batch_per_device {plan.batch_per_device} = {planned}, "
            f"but the global batch is {batch}"
        )


def _speak() -> None:
    """Let the log be seen, as AP's is, unless the script has set up logging itself."""
    if LOG.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[info] %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)


class _Loss(torch.autograd.Function):
    """A loss whose gradients are known already: its backward hands them on, scaled."""

    @staticmethod
    def forward(
        ctx: Any, loss: torch.Tensor, gradients: list[torch.Tensor | None], *parameters: Any
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        if ctx.gradients is None:
            raise ParplanError("backward was called a second time on the same loss")
        # Not kept here, so that autograd may take the tensors over instead of copying them.
        gradients, ctx.gradients = ctx.gradients, None
        scale = outer[0].item()
        if scale != 1.0:
            torch._foreach_mul_([g for g in gradients if g is not None], scale)
        return None, None, *gradients


class OnAnotherProcess(nn.Module):
    """In the place of a layer that another process has."""

    def forward(self, *inputs: Any) -> Any:
        """Always raises `ParplanError`."""
        raise ParplanError("this layer is on another process; call the model as a whole")


def leave_out(model: nn.Module, layers: Sequence[nn.Module], step: PipelineStep) -> None:
    """Take the layers that this process does not have out of `model`."""
    own = {id(m) for stage in step.modules.values() for m in stage.modules()}
    foreign = {id(layer) for layer in layers} - own
    for name, module in list(model.named_modules()):
        if id(module) in foreign:
            model.set_submodule(name, OnAnotherProcess())
