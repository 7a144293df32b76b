"""Replacement of a model's forward by the execution of its plan."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parplan.backend.executable import check_executable
from parplan.backend.models.chain import Chain, check_chain
from parplan.backend.models.find_chain import is_hf_model
from parplan.backend.runtime.gradient_norm import share_norms
from parplan.backend.runtime.gradient_scaler import ScaleToCome
from parplan.backend.runtime.own_part import leave_out
from parplan.backend.runtime.pipeline import PipelineStep
from parplan.backend.runtime.random_stream import RandomStream, kept_random_numbers
from parplan.backend.runtime.whole_state import NOT_AN_OBJECT, WholeState
from parplan.backend.script.calls import HfOutput, hf_tensors, refuse_trainer
from parplan.backend.script.differences import differences, shared_cores
from parplan.backend.script.known_gradients import KnownGradients
from parplan.backend.script.parameter_hooks import unhooked
from parplan.backend.script.plan_script import announce, find_plan, forget_choice
from parplan.backend.script.run_record import RunRecord, report_from_environment
from parplan.backend.script.why_not_in_script import check_in_script
from parplan.backend.workers.meeting import Intent, checksum, meet, meeting
from parplan.backend.workers.processes import (
    agree,
    broadcast_weights,
    count_step,
    is_first,
    join_processes,
    lost_contact,
    num_processes,
)
from parplan.errors import ParplanError, RunFailedError
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan

LOG = logging.getLogger("parplan")


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
        self.state = WholeState(model, _first_names(model))
        self.step: PipelineStep | None = None
        self.scale: ScaleToCome | None = None
        self.record: RunRecord | None = None
        self.random: RandomStream | None = None
        """None for one process alone, which draws what the script would draw."""
        self.planned_now = False
        """Whether the plan is made by the one line itself, from an example."""
        self.precision = "bf16" if options.mixed_precision else "fp32"
        self.device = join_processes()
        meeting()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ParplanError(NOT_AN_OBJECT)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """The mean loss over the global batch, with gradients if they are enabled.

        Of a Hugging Face model an object with the field `loss`, as its own forward returns one.
        """
        inputs, targets = self._tensors(given, named)
        count_step()
        try:
            step = self.prepare(inputs, targets)
            before_s = time.perf_counter()
            self._meet(inputs, targets)
            if self.record is not None and torch.is_grad_enabled():
                self.record.begin(time.perf_counter() - before_s)
            self._count_labels(step, targets)
            loss = self._loss(step, inputs, targets)
        except RuntimeError as error:
            if not lost_contact(error):
                raise
            lines = str(error).strip().splitlines()
            raise RunFailedError(
                f"lost contact with another process, which has died or stopped: {lines[0]}"
            ) from error
        return HfOutput(loss) if self.is_hf else loss

    def _meet(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Raise `ParplanError` on all processes unless they do the same with the same batch."""
        if num_processes() > 1:
            intent = Intent.STEP if torch.is_grad_enabled() else Intent.EVALUATION
            meet(intent, self.state.number, checksum(inputs, targets))

    def _loss(
        self, step: PipelineStep, inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        with self.random() if self.random is not None else contextlib.nullcontext():
            if not torch.is_grad_enabled():
                return step.evaluate(inputs, targets)
            return self._train(step, inputs, targets)

    def _train(
        self, step: PipelineStep, inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        assert self.scale is not None
        step.gradient_scale = self.scale()
        parameters = [p for p in step.parameters() if p.requires_grad]
        held = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with unhooked(parameters):
                loss = step.step(inputs, targets)
            if self.record is not None:
                self.record.computed()
            gradients = [p.grad for p in parameters]
        finally:
            for parameter, gradient in zip(parameters, held, strict=True):
                parameter.grad = gradient
        result: torch.Tensor = KnownGradients.apply(  # type: ignore[no-untyped-call]
            loss, gradients, step.gradient_scale, torch.zeros((), requires_grad=True), *parameters
        )
        return result

    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> PipelineStep:
        """Plan for this global batch, once, and keep this process's part of the model."""
        if self.step is None:
            with kept_random_numbers(self.device):
                self.step = self._prepare(inputs, targets)
        return self.step

    def _prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> PipelineStep:
        refuse_trainer()
        self._meet(inputs, targets)
        if is_first():
            forget_choice(self.folder)
        broadcast_weights(self.model, self.device)
        check_chain(self.model, self._loss_alone, self.chain, inputs, targets)
        prediction = None
        if self.plan is None:
            self.plan, prediction = find_plan(
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
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            for text in (
                *differences(self.model, plan, len(inputs)),
                *shared_cores(local, self.device.type == "cuda"),
            ):
                LOG.warning(text)
        step = PipelineStep(
            layers=self.chain.layers,
            plan=plan,
            loss_fn=self.chain.loss_fn,
            example_micro_batch=inputs[: plan.batch_per_device].to(self.device),
            device=self.device,
            num_first=self.chain.num_first,
            num_last=self.chain.num_last,
            precision=self.precision,
        )
        leave_out(self.model, step.modules.values())
        self.state.begin(step)
        self.scale = ScaleToCome(step)
        if num_processes() > 1:
            self.random = RandomStream(_seed(step), self.device)
        share_norms(step)
        self.record = RunRecord(step, prediction, report_from_environment(self.folder))
        return step

    def _tensors(
        self, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_hf:
            return hf_tensors(given, named)
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


def _seed(step: PipelineStep) -> int:
    """Of the first process's, another one for each stage and replica."""
    place = step.groups.pipeline_rank * step.plan.data_parallel + step.groups.data_rank
    return agree(torch.initial_seed) // 2 + 1 + place


def _first_names(model: nn.Module) -> dict[str, str]:
    """Of parameters with several names, the first one, under each of them."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _check_batch(plan: Plan, batch: int) -> None:
    planned = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    if planned != batch:
        raise ParplanError(
            f"plan: data_parallel {plan.data_parallel} x num_micro_batches "
            f"{plan.num_micro_batches} x batch_per_device {plan.batch_per_device} = {planned}, "
            f"but the global batch is {batch}"
        )
