"""Replacement of a model's forward by the execution of its plan."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parplan.backend.executable import check_executable
from parplan.backend.models.chain import Chain, check_chain
from parplan.backend.models.find_chain import is_hf_model
from parplan.backend.runtime.gradient_norm import share_norms
from parplan.backend.runtime.pipeline import PipelineStep
from parplan.backend.script.plan_script import announce, find_plan, forget_choice
from parplan.backend.script.why_not_in_script import check_in_script
from parplan.backend.workers.processes import (
    broadcast_weights,
    check_same_batch,
    count_step,
    is_first,
    join_processes,
    lost_contact,
    num_processes,
)
from parplan.errors import ParplanError, RunFailedError
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan


class PlannedForward:
    """Plans at the first batch, then runs the plan at every call."""

    def __init__(
        self,
        model: nn.Module,
        chain: Chain,
        options: Options,
        plan: Plan | None,
        profile: Path | None,
        folder: Path,
    ) -> None:
        self.model, self.chain, self.options, self.folder = model, chain, options, folder
        self.plan, self.profile = plan, profile
        self.is_hf = is_hf_model(model)
        self.own_forward: Callable[..., Any] = model.forward
        self.first_names = _first_names(model)
        """Of parameters with several names, the first one, under each of them."""
        self.step: PipelineStep | None = None
        self.precision = "bf16" if options.mixed_precision else "fp32"
        self.device = join_processes()

    def __call__(self, *given: Any, **named: Any) -> Any:
        """The mean loss over the global batch, with gradients if they are enabled.

        Of a Hugging Face model an object with the field `loss`, as its own forward returns one.
        """
        inputs, targets = self._tensors(given, named)
        step = self.prepare(inputs, targets)
        count_step()
        self._count_labels(step, targets)
        try:
            loss = self._train(step, inputs, targets)
        except RuntimeError as error:
            if not lost_contact(error):
                raise
            lines = str(error).strip().splitlines()
            raise RunFailedError(
                f"lost contact with another process, which has died or stopped: {lines[0]}"
            ) from error
        return _HfOutput(loss) if self.is_hf else loss

    def _train(
        self, step: PipelineStep, inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
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
        _refuse_trainer()
        check_same_batch(inputs, targets)
        if is_first():
            forget_choice(self.folder)
        broadcast_weights(self.model, self.device)
        check_chain(self.model, self._loss_alone, self.chain, inputs, targets)
        if self.plan is None:
            self.plan = find_plan(
                self.chain,
                (inputs, targets),
                self.options,
                self.profile,
                self.device,
                planned_now=self.planned_now,
            )
        plan = self.plan
        check_executable(plan, num_processes())
        check_in_script(plan, self.chain, planned_now=self.planned_now)
        _check_batch(plan, len(inputs))
        if is_first():
            announce(plan, self.folder)
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
        leave_out(self.model, self.step)
        share_norms(self.step)
        return self.step

    planned_now = False
    """Whether the plan is made by the one line itself, from an example."""

    def _tensors(
        self, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_hf:
            return _hf_tensors(given, named)
        inputs = given[0] if given else None
        targets = given[1] if len(given) > 1 else named.get("targets")
        if not isinstance(inputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
            raise ParplanError(
                "a parallelised model is called as model(inputs, targets), two tensors, "
                "and returns the loss"
            )
        return inputs, targets

    def _loss_alone(self, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        """What the model itself would say."""
        if not self.is_hf:
            return self.own_forward(inputs, targets)
        return self.own_forward(input_ids=inputs, labels=targets, use_cache=False).loss

    def _count_labels(self, step: PipelineStep, labels: torch.Tensor) -> None:
        """Tell the loss of a Hugging Face model how many labels count in a micro-batch on average.

        The first label of a sequence has no token before it.
        """
        if hasattr(self.chain.loss_fn, "count_all"):
            count = int((labels[:, 1:] != -100).sum())
            self.chain.loss_fn.count_all = count / step.num_parts(len(labels))


class _HfOutput:
    """What a parallelised Hugging Face model returns; logits are on the last stage alone."""

    def __init__(self, loss: torch.Tensor) -> None:
        self.loss = loss
        self.logits = None

    def __getitem__(self, key: int | str) -> torch.Tensor:
        if key in (0, "loss"):
            return self.loss
        raise KeyError(key)


def _hf_tensors(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels of a call; a mask only where it changes nothing that counts."""
    rest = dict(named)
    tokens = given[0] if given else rest.pop("input_ids", None)
    labels, mask = rest.pop("labels", None), rest.pop("attention_mask", None)
    for name in ("use_cache", "return_dict"):
        rest.pop(name, None)
    if not isinstance(tokens, torch.Tensor) or not isinstance(labels, torch.Tensor):
        raise ParplanError(
            "a parallelised Hugging Face model is called as model(input_ids=..., labels=...), "
            "and returns the loss"
        )
    if len(given) > 1 or rest:
        raise ParplanError(
            f"a parallelised Hugging Face model takes input_ids, labels and attention_mask, "
            f"not {', '.join(rest) or 'more positional arguments'}"
        )
    if mask is not None:
        hidden = mask == 0
        if (hidden[:, :-1] & ~hidden[:, 1:]).any() or (labels[hidden] != -100).any():
            raise ParplanError(
                "attention_mask: only padding on the right, whose labels are -100, can be "
                "parallelised; what comes before it does not attend to it"
            )
    return tokens, labels


def _first_names(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _refuse_trainer() -> None:
    """Raise `ParplanError` where a Trainer calls: it spreads batches and wraps models itself."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        frame = frame.f_back
        for kind in type(caller).__mro__:
            if kind.__module__ == "transformers.trainer" and kind.__name__ == "Trainer":
                raise ParplanError(
                    "Hugging Face's Trainer spreads batches over the processes and wraps the "
                    "model itself; write the training loop, as in docs/one-line.md"
                )


def _check_batch(plan: Plan, batch: int) -> None:
    planned = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    if planned != batch:
        raise ParplanError(
            f"plan: data_parallel {plan.data_parallel} x num_micro_batches "
            f"{plan.num_micro_batches} x batch_per_device {plan.batch_per_device} = {planned}, "
            f"but the global batch is {batch}"
        )


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


def leave_out(model: nn.Module, step: PipelineStep) -> None:
    """Take the modules with parameters that this process does not have out of `model`."""
    own = {id(m) for stage in step.modules.values() for m in stage.modules()}
    _leave_out(model, own)


def _leave_out(module: nn.Module, own: set[int]) -> None:
    for child_name, child in list(module.named_children()):
        with_parameters = [m for m in child.modules() if _has_parameters(m)]
        if with_parameters and not any(id(m) in own for m in with_parameters):
            module.set_submodule(child_name, OnAnotherProcess())
        elif any(id(m) not in own for m in with_parameters):
            _leave_out(child, own)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
