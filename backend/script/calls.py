"""Calls of a model in a training script: what is given, and what comes back."""

import inspect
from typing import Any

import torch

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


def refuse_trainer() -> None:
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
