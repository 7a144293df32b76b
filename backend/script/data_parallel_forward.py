"""The forward of a model that is replicated as a whole, in the place of its own."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parplan.backend.planning.search import Prediction
from parplan.backend.replicas.division import Call
from parplan.backend.replicas.leaves import checksum_of_values, map_leaves, tensors_of
from parplan.backend.replicas.whole_model import WholeModel
from parplan.backend.runtime.gradient_scaler import share_infinities
from parplan.backend.runtime.random_stream import RandomStream, kept_random_numbers
from parplan.backend.runtime.whole_state import WholeState
from parplan.backend.script.run_record import RunRecord, report_from_environment
from parplan.backend.workers.meeting import Intent, checksum, meet
from parplan.backend.workers.processes import agree, num_processes
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan


def why_not_whole(plan: Plan | None, options: Options) -> str:
    """Why the model cannot be replicated as a whole, in one line; empty if it can."""
    if plan is None:
        stages = options.num_stages
        return "" if stages in ("auto", 1) else f"num_stages {stages} needs a chain of layers"
    if not is_whole_plan(plan):
        if plan.recomputation != "none":
            return f"recomputation {plan.recomputation} needs a chain of layers"
        return "the plan needs a chain of layers"
    return ""


def is_whole_plan(plan: Plan) -> bool:
    """Whether a plan is data parallelism alone, sharded or not, of the model as it is."""
    parts = plan.total_stages * plan.tensor_parallel * plan.context_parallel
    parts *= plan.num_micro_batches
    return parts == 1 and plan.recomputation == "none"


def whole_plan(batch: int, count: int, *, drawn_in_parts: bool, sharded: bool = False) -> Plan:
    """Data parallelism over so many processes; the largest part of a batch of so many rows.

    `sharded`: with parameters and gradients distributed (ZeRO-3).
    """
    rows = batch if drawn_in_parts else -(-batch // count)
    plan = Plan(data_parallel=count, num_micro_batches=1, batch_per_device=rows)
    if not sharded or count == 1:
        return plan
    return replace(
        plan, distribute_param=True, distribute_gradient=True, distribute_low_prec_param=True
    )


def meet_on(number: int, call: Call) -> None:
    """Go on when all processes train model `number` on the same call; raises `ParplanError`."""
    meet(Intent.STEP, number, checksum(*tensors_of(call)), checksum_of_values(call))


class DataParallelForward:
    """Runs a `WholeModel` at every call; made by all processes at the first one."""

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        plan: Plan,
        state: WholeState,
        device: torch.device,
        call: Call,
        *,
        bf16: bool,
        drawn_in_parts: bool,
    ) -> None:
        self.bf16, self.drawn_in_parts = bf16, drawn_in_parts
        self.state, self.device = state, device
        with kept_random_numbers(device):
            self.whole = WholeModel(model, forward, plan, device, drawn_in_parts=drawn_in_parts)
            with self._precision():
                self.whole.prepare(self._moved(call))
        state.begin(self.whole)
        share_infinities(self.whole)
        self.random = None
        if num_processes() > 1:
            seed = agree(torch.initial_seed) // 2 + 1 + self.whole.groups.data_rank
            self.random = RandomStream(seed, device)
        self.record: RunRecord | None = None

    def begin_record(self, folder: Path, prediction: Prediction | None) -> None:
        """Tell the plan, and what is predicted of it; record the steps from now on."""
        self.record = RunRecord(
            *(self.whole, prediction, report_from_environment(folder)), self.whole.flops.each
        )

    def __call__(self, call: Call) -> Any:
        """What the model returns for the whole batch."""
        call = self._moved(call)
        training = torch.is_grad_enabled()
        if training and num_processes() > 1:
            before_s = time.perf_counter()
            if self.drawn_in_parts:
                meet(Intent.STEP, self.state.number)
            else:
                meet_on(self.state.number, call)
            if self.record is not None:
                parts = self.whole.count if self.drawn_in_parts else 1
                first = next(iter(tensors_of(call)), torch.empty(0))
                self.record.begin(time.perf_counter() - before_s, first, parts)
        own = self.random is not None and training
        with self.random() if own and self.random else contextlib.nullcontext(), self._precision():
            outputs = self.whole(call)
        if training and self.record is not None:
            self.record.computed()
        return outputs

    def _moved(self, call: Call) -> Call:
        if self.device.type == "cpu":
            return call
        moved: Call = map_leaves(
            lambda v: v.to(self.device) if isinstance(v, torch.Tensor) else v, call
        )
        return moved

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.bf16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()
