"""Calls of a model in a training script: what is given, and what comes back."""

import inspect
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from parplan.backend.models.chain import NoChainError
from parplan.backend.models.counted_loss import CountedLoss
from parplan.backend.workers.processes import num_processes
from parplan.errors import ParplanError

Batch = tuple[torch.Tensor, torch.Tensor]


class HfOutput:
    """What a parallelised Hugging Face model returns; logits are on the last stage alone."""

    def __init__(self, loss: torch.Tensor) -> None:
        self.loss = loss
        self.logits = None

    def __getitem__(self, key: int | str) -> torch.Tensor:
        if key in (0, "loss"):
            return self.loss
        raise KeyError(key)


def hf_tensors(given: tuple[Any, ...], named: dict[str, Any]) -> Batch:
    """Tokens and labels of a call; a mask only where it changes nothing that counts."""
    rest = dict(named)
    tokens = given[0] if given else rest.pop("input_ids", None)
    labels, mask = rest.pop("labels", None), rest.pop("attention_mask", None)
    for name in ("use_cache", "return_dict"):
        rest.pop(name, None)
    if not isinstance(tokens, torch.Tensor) or not isinstance(labels, torch.Tensor):
        raise NoChainError(
            "a parallelised Hugging Face model is called as model(input_ids=..., labels=...), "
            "and returns the loss; for generate() under a pipeline, save the model, and load it in "
            "a script without the line"
        )
    if len(given) > 1 or rest:
        raise NoChainError(
            f"a parallelised Hugging Face model takes input_ids, labels and attention_mask, "
            f"not {', '.join(rest) or 'more positional arguments'}"
        )
    if mask is not None:
        hidden = mask == 0
        if (hidden[:, :-1] & ~hidden[:, 1:]).any() or (labels[hidden] != -100).any():
            raise NoChainError(
                "attention_mask: only padding on the right, whose labels are -100, can be "
                "parallelised; what comes before it does not attend to it"
            )
    return tokens, labels


def plain_tensors(given: tuple[Any, ...], named: dict[str, Any]) -> Batch:
    """Inputs and targets of a call; raises `NoChainError` for anything else."""
    inputs = given[0] if given else None
    targets = given[1] if len(given) > 1 else named.get("targets")
    more = len(given) > 2 or set(named) - {"targets"}
    if not isinstance(inputs, torch.Tensor) or not isinstance(targets, torch.Tensor) or more:
        raise NoChainError(
            "a parallelised model is called as model(inputs, targets), two tensors, "
            "and returns the loss"
        )
    return inputs, targets


def all_rows(own: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The parts of a batch that the processes have drawn, one after the other."""
    if num_processes() == 1:
        return own
    own = own.to(device)
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(num_processes())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=device))
    padded = own.new_zeros(int(max(sizes)), *own.shape[1:])
    padded[: len(own)] = own
    everyone = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyone, padded)
    return torch.cat([part[: int(n)] for part, n in zip(everyone, sizes, strict=True)])


def count_labels(loss_fn: Any, labels: torch.Tensor, num_parts: int) -> None:
    """Tell a loss how many labels count in a micro-batch on average.

    The first label of a sequence has no token before it in a model of Hugging Face.
    """
    if isinstance(loss_fn, CountedLoss):
        loss_fn.count(labels, num_parts)
    elif hasattr(loss_fn, "count_all"):
        loss_fn.count_all = int((labels[:, 1:] != -100).sum()) / num_parts


SPREADERS = {
    ("transformers.trainer", "Trainer"): "Hugging Face's Trainer",
    ("lightning.pytorch.trainer.trainer", "Trainer"): "Lightning's Trainer",
    ("pytorch_lightning.trainer.trainer", "Trainer"): "Lightning's Trainer",
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "DistributedDataParallel "
    "(Accelerate's prepare makes one as well)",
}
"""Classes that spread batches over processes and reduce gradients themselves."""

OWN_LOOP = "give the line the model alone, in a loop of your own, as in docs/one-line.md"
HOOK = "say batch='part' in the line, before anything is prepared, which leaves it the batches"


def refuse_trainer(*, drawn_in_parts: bool = False) -> None:
    """Raise `ParplanError` where something calls that spreads batches and wraps models itself.

    drawn_in_parts: Hugging Face's Trainer has been told not to (`leave_unwrapped`).
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        frame = frame.f_back
        for kind in type(caller).__mro__:
            name = SPREADERS.get((kind.__module__, kind.__name__))
            if name is None or (drawn_in_parts and name.startswith("Hugging Face")):
                continue
            how = OWN_LOOP if name.startswith("Lightning") or drawn_in_parts else HOOK
            raise ParplanError(
                f"{name} spreads batches over the processes and reduces gradients itself; {how}"
            )
    if drawn_in_parts:
        _check_precision()


def leave_unwrapped(model: nn.Module) -> None:
    """Keep Accelerate, which Hugging Face's Trainer uses too, from wrapping the model."""
    model._is_accelerate_prepared = True  # type: ignore[assignment]


def _check_precision() -> None:
    """Raise `ParplanError` where Accelerate would compute in less by wrapping the model."""
    accelerate: Any = sys.modules.get("accelerate.state")
    states = accelerate.AcceleratorState._shared_state if accelerate is not None else {}
    mixed = states.get("_mixed_precision", "no")
    if mixed in ("fp16", "bf16", "fp8") and not any(
        map(torch.is_autocast_enabled, ("cpu", "cuda"))
    ):
        raise ParplanError(
            f"Accelerate's mixed precision {mixed} comes with its wrapping of the model, which the "
            "line takes over: call the model under accelerator.autocast(), or say "
            "mixed_precision=True (bf16) in the line and mixed_precision='no' there (Trainer: "
            "bf16=False)"
        )
