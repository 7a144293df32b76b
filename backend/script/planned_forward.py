"""Replacement of a model's forward by the execution of its plan."""

import contextlib
import inspect
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parplan.backend.cutting.cut_at_blocks import cut_at_blocks, may_be_cut
from parplan.backend.cutting.how_called import HowCalled
from parplan.backend.executable import check_executable
from parplan.backend.models.chain import Chain, NoChainError, check_chain, check_mean
from parplan.backend.models.counted_loss import counted_loss
from parplan.backend.models.find_chain import is_hf_model
from parplan.backend.models.flops import Counted
from parplan.backend.planning.search import Prediction
from parplan.backend.replicas.batch_statistics import normalised_by_batch
from parplan.backend.replicas.division import Call, rows_in
from parplan.backend.replicas.leaves import tensors_of
from parplan.backend.runtime.gradient_norm import share_norms
from parplan.backend.runtime.gradient_scaler import ScaleToCome
from parplan.backend.runtime.own_part import leave_out
from parplan.backend.runtime.pipeline import PipelineStep
from parplan.backend.runtime.random_stream import (
    RandomStream,
    kept_random_numbers,
    share_random_numbers,
)
from parplan.backend.runtime.whole_state import NOT_AN_OBJECT, WholeState
from parplan.backend.script.calls import (
    HfOutput,
    all_rows,
    count_labels,
    hf_tensors,
    plain_tensors,
    refuse_trainer,
)
from parplan.backend.script.data_parallel_forward import (
    DataParallelForward,
    is_whole_plan,
    meet_on,
    whole_plan,
    why_not_whole,
)
from parplan.backend.script.differences import differences, shared_cores
from parplan.backend.script.gradient_checks import refuse_steps_without_calls
from parplan.backend.script.known_gradients import KnownGradients
from parplan.backend.script.parameter_hooks import unhooked
from parplan.backend.script.plan_script import announce, find_plan, forget_choice
from parplan.backend.script.run_record import RunRecord, report_from_environment
from parplan.backend.script.why_not_in_script import check_batch, check_in_script
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
        chain: Chain | NoChainError,
        options: Options,
        plan: Plan | None,
        profile: Path | None,
        folder: Path,
        *,
        drawn_in_parts: bool = False,
    ) -> None:
        """Keep the model and what is known of the batch.

        chain: that of the model, or why there is none. drawn_in_parts: whether every process has a
        part of the global batch.
        """
        self.model, self.options, self.folder = model, options, folder
        self.found, self.drawn_in_parts = chain, drawn_in_parts
        self.plan, self.profile = plan, profile
        self.whole: DataParallelForward | None = None
        self.is_hf = is_hf_model(model)
        self.how: HowCalled | None = None
        """Of a model that was cut at its blocks."""
        self._why_whole: NoChainError | None = None
        self._why_data_parallel = "data parallelism alone is predicted to be faster"
        self._prediction: Prediction | None = None
        """Of data parallelism alone, where a search chose it."""
        self.own_forward: Callable[..., Any] = model.forward
        # generate() of Hugging Face asks which arguments there are, and makes positions by that.
        self.__signature__ = inspect.signature(model.forward)
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
        if not drawn_in_parts and share_random_numbers(self.device) and is_first():
            LOG.info("random numbers: the seeds of the processes differ; all go on with the first")
        self._called = refuse_steps_without_calls(model)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ParplanError(NOT_AN_OBJECT)

    @property
    def chain(self) -> Chain:
        """The model's; raises `NoChainError`."""
        if isinstance(self.found, NoChainError):
            raise self.found
        return self.found

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *given: Any, **named: Any) -> Any:
        """The mean loss over the global batch, with gradients if they are enabled.

        Of a Hugging Face model an object with the field `loss`, as its own forward returns one. Of
        a model that is no chain of layers what its own forward returns.
        """
        count_step()
        if torch.is_grad_enabled():
            self._called()
        try:
            if self.whole is None:
                try:
                    return self._by_chain(given, named)
                except NoChainError as error:
                    if not torch.is_grad_enabled() and self._has_all():
                        return self.own_forward(*given, **named)
                    if self.step is not None:
                        raise
                    if self._cut((given, named), error):
                        return self._by_chain(given, named)
                    self.whole = self._replicated((given, named), self._why_whole or error)
            return self.whole((given, named))
        except RuntimeError as error:
            if not lost_contact(error):
                raise
            lines = str(error).strip().splitlines()
            raise RunFailedError(
                f"lost contact with another process, which has died or stopped: {lines[0]}"
            ) from error

    def _has_all(self) -> bool:
        """Whether this process has the whole model, for whatever asks for more than a loss."""
        return not self.state.parted

    def _by_chain(self, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if isinstance(self.found, NoChainError):
            raise self.found
        if self.how is not None:
            tensors = self.how.tensors
        else:
            tensors = hf_tensors if self.is_hf else plain_tensors
        inputs, targets = tensors(given, named)
        self._check_alone(inputs, targets)
        if self.drawn_in_parts:
            inputs, targets = (all_rows(part, self.device) for part in (inputs, targets))
        step = self.prepare(inputs, targets)
        before_s = time.perf_counter()
        self._meet(inputs, targets)
        if self.record is not None and torch.is_grad_enabled():
            self.record.begin(time.perf_counter() - before_s, inputs)
        count_labels(self.chain.loss_fn, targets, step.num_parts(len(targets)))
        if self.how is not None:
            self.chain.loss_fn.sees(inputs)  # type: ignore[attr-defined]
            return self.how.returned(self._loss(step, inputs, targets))
        loss = self._loss(step, inputs, targets)
        return HfOutput(loss) if self.is_hf else loss

    def _check_alone(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Raise `NoChainError` for what a chain of layers would not train as one process does."""
        if torch.is_grad_enabled() and (inputs.requires_grad or targets.requires_grad):
            raise NoChainError("a pipeline gives no gradients of inputs, and these require some")
        searched = self.step is None and self.plan is None and num_processes() > 1
        if searched and self.options.num_stages == "auto" and normalised_by_batch(self.model):
            raise NoChainError(
                "BatchNorm takes statistics of the whole batch, which micro-batches do not have; "
                "num_stages=... asks for a pipeline"
            )

    def _cut(self, call: Call, why: NoChainError) -> bool:
        """Cut the model at its blocks for a plan that is not data parallelism alone; tell if so.

        Else `_why_whole` says why not.
        """
        self._why_whole = why
        own = getattr(self.own_forward, "__func__", None) is type(self.model).forward
        sharded = self.plan is not None and (self.plan.zero_stage or self.plan.tensor_parallel > 1)
        whole = self.plan is not None and is_whole_plan(self.plan)
        given = self.profile is not None or self.planned_now or self.drawn_in_parts
        alone = num_processes() == 1 or not self.options.pipeline_parallel
        needs_all = any(t.requires_grad for t in tensors_of(call)) or (
            self.plan is None
            and self.options.num_stages == "auto"
            and normalised_by_batch(self.model)
        )
        if sharded or whole or given or alone or not own or not may_be_cut(self.model) or needs_all:
            return False
        refuse_trainer(drawn_in_parts=self.drawn_in_parts)
        before = self.found, self.is_hf
        meet_on(self.state.number, call)
        broadcast_weights(self.model, self.device)
        try:
            with kept_random_numbers(self.device):
                self.found, self.how = cut_at_blocks(self.model, call)
                self.is_hf = False
                self._keep_outputs()
                self.prepare(*self.how.tensors(*call))
        except NoChainError as error:
            self._why_whole, self.how = error, None
            self.found, self.is_hf = before
            return False
        return True

    def _keep_outputs(self) -> None:
        """Search data parallelism alone where a pipeline would leave outputs on its last stage."""
        assert self.how is not None
        if self.how.loss_alone or self.plan is not None or self.options.num_stages != "auto":
            return
        self.options = replace(
            self.options, num_stages=1, num_micro_batches=1, activation_recomputation=False
        )
        self._why_data_parallel = (
            "it returns more than the loss, which a pipeline has on its last stage alone; "
            "num_stages=... asks for one"
        )

    def _replicated(self, call: Call, why: NoChainError) -> DataParallelForward:
        """Data parallelism at least; raises `why` where the plan or the options want more."""
        if reason := why_not_whole(self.plan, self.options):
            raise ParplanError(f"{why} ({reason})") from why
        refuse_trainer(drawn_in_parts=self.drawn_in_parts)
        if not self.drawn_in_parts and num_processes() > 1:
            meet_on(self.state.number, call)
        broadcast_weights(self.model, self.device)
        size, count = rows_in(call), num_processes()
        plan = self.plan or whole_plan(
            size,
            count,
            drawn_in_parts=self.drawn_in_parts,
            sharded=self.options.distribute_parameter is True,
        )
        check_executable(plan, count)
        if plan.zero_stage and not self.planned_now:
            raise ParplanError(
                "plan: sharded parameters of a model that is no chain of layers need "
                "example=(inputs, targets), and the optimizer after the line"
            )
        found = DataParallelForward(
            *(self.model, self.own_forward, plan, self.state, self.device, call),
            bf16=self.precision == "bf16",
            drawn_in_parts=self.drawn_in_parts,
        )
        if is_first():
            LOG.info(f"no pipeline: {why}")
        self._announce(found.whole.plan, size, found.whole.keeps_batch_statistics)
        found.begin_record(self.folder, self._prediction)
        return found

    def _announce(self, plan: Plan, batch: int, whole_statistics: bool = False) -> None:
        if not is_first():
            return
        announce(plan, self.folder)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        on_gpu = self.device.type == "cuda"
        told = differences(self.model, plan, batch, whole_statistics=whole_statistics)
        for text in (*told, *shared_cores(local, on_gpu)):
            LOG.warning(text)

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

    def plan_now(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Plan for this batch before the first call."""
        try:
            self.prepare(inputs, targets)
        except NoChainError as error:
            call: Call = ((inputs, targets), {})
            if self.is_hf:
                call = ((), {"input_ids": inputs, "labels": targets})
            self.whole = self._replicated(call, error)

    def prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> PipelineStep:
        """Plan for this global batch, once, and keep this process's part of the model."""
        if self.step is None:
            with kept_random_numbers(self.device):
                self.step = self._prepare(inputs, targets)
        return self.step

    def _prepare(self, inputs: torch.Tensor, targets: torch.Tensor) -> PipelineStep:
        refuse_trainer(drawn_in_parts=self.drawn_in_parts)
        self._meet(inputs, targets)
        if is_first():
            forget_choice(self.folder)
        broadcast_weights(self.model, self.device)
        check_chain(self.model, self._loss_alone, self.chain, inputs, targets)
        if not self.is_hf:  # whose labels are counted
            check_mean(self.model, self.chain, inputs, targets)
            if self.how is None:
                self.found = counted_loss(self.model, self.chain, inputs, targets)
        flops = Counted()
        flops.row(self.model, self._loss_alone, inputs, targets)
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
            if self.how is not None and is_whole_plan(self.plan):
                self._prediction = prediction
                raise NoChainError(self._why_data_parallel)
        plan = self.plan
        check_executable(plan, num_processes())
        check_in_script(plan, self.chain, planned_now=self.planned_now)
        check_batch(plan, len(inputs))
        self._announce(plan, len(inputs))
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
        self.record = RunRecord(
            *(step, prediction, report_from_environment(self.folder)), flops.each
        )
        return step

    def _loss_alone(self, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        """The loss that the model itself would return."""
        if self.how is not None:
            args, named = self.how.call(inputs, targets)
            return self.how.loss_of(self.own_forward(*args, **named))
        if not self.is_hf:
            return self.own_forward(inputs, targets)
        return self.own_forward(input_ids=inputs, labels=targets, use_cache=False).loss


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
