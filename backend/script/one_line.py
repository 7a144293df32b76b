"""One line in an ordinary training script: the model trains by the best plan for this machine."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from parplan.backend.cutting.cut_at_blocks import may_be_cut
from parplan.backend.models.chain import Chain, LossFunction, NoChainError
from parplan.backend.models.find_chain import find_chain
from parplan.backend.script.calls import leave_unwrapped
from parplan.backend.script.data_parallel_forward import why_not_whole
from parplan.backend.script.planned_forward import PlannedForward
from parplan.backend.script.why_not_in_script import check_in_script
from parplan.backend.workers.train import tell_called
from parplan.errors import ParplanError, RunFailedError, unknown_name
from parplan.planners.spaces.options import Options, settings_from_environment, switched_off
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
    profile: str | Path | None = None,
    layers: Sequence[nn.Module] | None = None,
    loss_fn: LossFunction | None = None,
    example: tuple[torch.Tensor, torch.Tensor] | None = None,
    batch: Literal["whole", "part"] = "whole",
) -> M:
    """Make `model` train by a plan over the processes that torchrun started; returns it.

    `model(inputs, targets)` returns the loss, and the training loop stays as it is. Every process
    runs the whole script and has to see the same global batch, as if it were alone; each computes
    its part, and all get the mean loss over the batch. The first six arguments are Advanced
    Parallelization's and restrict the search. `mixed_precision` (bfloat16) is off unless asked for,
    so that the script trains as it does without the line.

    plan: taken instead of searching. profile: the file that `parplan calibrate` wrote for this
    machine, to plan by instead of measuring now; the search then has sharded and tensor-parallel
    plans as well, where `example` is given. Without it sharded plans are searched if
    `distribute_parameter` is True, which needs `example` on several processes. layers, loss_fn: the
    chain that the model consists of, and the mean loss of (outputs, targets); found in a model
    whose one `nn.Sequential` has all of its parameters, and in Hugging Face's causal language
    models. example: a global batch (inputs, targets) to plan with now; without it planning waits
    for the first batch, as AP does, because a plan depends on the batch's size.

    A model that is no such chain, or is not called as model(inputs, targets), is trained by data
    parallelism: its forward returns what it would for the whole batch. batch: "part" where every
    process draws its part of the batch (DistributedSampler, Accelerate, Hugging Face's Trainer);
    then each gets its rows of the outputs, and the mean of a loss.

    Parameters stay the objects they are, so an optimizer may be made before or after; but a plan
    that shards them (ZeRO-2 and -3) needs `example`, and the optimizer after the line. After
    planning, `model.parameters()` are this process's part; `model.state_dict()` is that of the
    whole model, gathered from all processes. A forward with gradients enabled runs the whole
    schedule; the `backward()` of its loss adds the gradients that are computed by then to `.grad`,
    scaled as the loss was.
    Raises `ParplanError` for what cannot be parallelised or executed, saying why.
    """
    tell_called()
    if switched_off():
        return model
    _speak()
    _one_line_errors()
    options = Options(
        pipeline_parallel=pipeline_parallel,
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        activation_recomputation=activation_recomputation,
        distribute_parameter=distribute_parameter,
        mixed_precision=mixed_precision,
        **settings_from_environment(),  # type: ignore[arg-type]
    )
    if isinstance(model.forward, PlannedForward):
        raise ParplanError("this model is parallelised already")
    if isinstance(model, DistributedDataParallel | FullyShardedDataParallel | FSDPModule):
        raise ParplanError(
            f"this model is a {type(model).__name__} already; give the line the model alone, which "
            "it makes parallel itself"
        )
    if batch not in ("whole", "part"):
        raise unknown_name("batch", batch, ("whole", "part"))
    chain = _chain_or_why_not(model, layers, loss_fn)
    if plan is not None and not isinstance(chain, NoChainError):
        check_in_script(plan, chain, planned_now=example is not None)
    if isinstance(chain, NoChainError):
        asked = layers is not None or profile is not None
        at_blocks = may_be_cut(model) and example is None
        if asked or (why_not_whole(plan, options) and not at_blocks):
            reason = why_not_whole(plan, options)
            raise ParplanError(f"{chain}" + (f" ({reason})" if reason else "")) from chain
    found = None if profile is None else Path(profile)
    forward = PlannedForward(
        *(model, chain, options, plan, found, Path.cwd()), drawn_in_parts=batch == "part"
    )
    model.forward = forward
    if batch == "part":
        leave_unwrapped(model)
    if example is not None:
        forward.planned_now = True
        forward.plan_now(*example)
    return model


def _chain_or_why_not(
    model: nn.Module, layers: Sequence[nn.Module] | None, loss_fn: LossFunction | None
) -> Chain | NoChainError:
    try:
        return find_chain(model, layers, loss_fn)
    except NoChainError as error:
        return error


def _speak() -> None:
    """Let the log be seen, as AP's is, unless the script has set up logging itself."""
    if LOG.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[info] %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)


def _one_line_errors() -> None:
    """Let mistakes that nobody catches be told in one line, without a traceback."""
    before = sys.excepthook
    if getattr(before, "by_parplan", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not isinstance(error, ParplanError):
            before(kind, error, trace)
            return
        what = "failed" if isinstance(error, RunFailedError) else "error"
        sys.stderr.write(f"parplan: {what} (process {os.environ.get('RANK', '0')}): {error}\n")

    hook.by_parplan = True  # type: ignore[attr-defined]
    sys.excepthook = hook
