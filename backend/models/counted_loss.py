"""Losses that do not count some labels, in micro-batches that have more of them than others."""

from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from parplan.backend.models.chain import Chain, LossFunction, NoChainError, evaluating

UNCOUNTED = (-100, -1)
"""Labels that losses leave out: the default of torch and of Hugging Face, and that of nanoGPT."""

Mean = Literal["labels", "rows", "unknown"]


class CountedLoss:
    """A mean over the labels that are not negative, as a part of that of the global batch.

    count_all: labels per micro-batch on average over the global batch; None: all of them count.
    """

    def __init__(self, function: LossFunction, *, known: bool) -> None:
        """`known`: whether it is such a mean; else negative labels are refused."""
        self.function, self.known = function, known
        self.count_all: float | None = None

    def count(self, labels: torch.Tensor, num_parts: int) -> None:
        """Take the labels of a global batch of so many micro-batches.

        Raises `NoChainError` where it is not known what the loss does with them.
        """
        if not self.known and bool((labels < 0).any()):
            raise NoChainError(
                "labels below zero: what the loss does with them is not known, and micro-batches "
                "need a mean over the rows or over the labels that count"
            )
        counted = int((labels >= 0).sum())
        self.count_all = None if counted in (0, labels.numel()) else counted / num_parts

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of one micro-batch, larger where more labels count in it than on average."""
        if self.count_all is None:
            return self.function(outputs, labels)
        counted = int((labels >= 0).sum())
        if counted == 0:  # the mean of nothing is not a number
            return outputs.sum() * 0
        return self.function(outputs, labels) * (counted / self.count_all)


def counted_loss(model: nn.Module, chain: Chain, *batch: torch.Tensor) -> Chain:
    """The chain with a loss that labels below zero are not counted in, where that is needed."""
    example = next(model.parameters(), torch.empty(0))
    values, labels = (part[:2].to(example.device) for part in batch)
    with evaluating(model), torch.no_grad():
        for layer in chain.layers:
            values = layer(values)
        mean = mean_over(chain.loss_fn, values, labels)
    if mean == "rows":
        return chain
    return replace(chain, loss_fn=CountedLoss(chain.loss_fn, known=mean == "labels"))


def mean_over(function: LossFunction, outputs: torch.Tensor, labels: torch.Tensor) -> Mean:
    """What a loss is a mean over where some labels are negative, by trying on two rows.

    On a GPU a label that the loss does not allow would end the process, so it is not known there.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return "rows"
    if len(labels) < 2 or labels.device.type != "cpu":
        return "unknown"
    found: set[Mean] = set()
    for value in UNCOUNTED:
        some = labels[:2].clamp_min(0)
        some[0].view(-1)[: max(1, some[0].numel() // 2)] = value
        try:
            both, first, second = (
                function(outputs[rows], some[rows]) for rows in (slice(2), slice(1), slice(1, 2))
            )
        except (RuntimeError, IndexError, ValueError, NoChainError):
            continue
        counts = [int((row >= 0).sum()) for row in some]
        by_labels = (first.nan_to_num() * counts[0] + second * counts[1]) / sum(counts)
        if torch.allclose(both, by_labels, rtol=1e-4):
            found.add("labels")
        else:
            found.add(
                "rows" if torch.allclose(both, (first + second) / 2, rtol=1e-4) else "unknown"
            )
    return found.pop() if len(found) == 1 else "unknown"
