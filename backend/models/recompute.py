"""Activation recomputation of one layer, with torch's own checkpointing.

full: only the layer's input is kept (Chen et al. 2016, arXiv:1604.06174). selective: the outputs of
the matrix products of linear layers are kept as well, so that the backward repeats the cheap rest:
normalisations, activation functions, attention core (Korthikanti et al. 2022, arXiv:2205.05198,
section 5).
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from parplan.errors import unknown_name
from parplan.sim.plan import Recomputation

LINEAR_PRODUCTS = frozenset({torch.ops.aten.mm.default, torch.ops.aten.addmm.default})
"""What `nn.Linear` runs. The attention core uses batched products, which are not among them."""


class Recomputed(nn.Module):
    """A layer whose activations are recomputed in the backward."""

    def __init__(self, module: nn.Module, level: Recomputation) -> None:
        super().__init__()
        self.module = module
        self.level = level

    def forward(self, *inputs: Any) -> Any:
        """Call the layer."""
        if self.level == "full":
            return checkpoint(self.module, *inputs, use_reentrant=False)
        return checkpoint(self.module, *inputs, use_reentrant=False, context_fn=_selective_contexts)


def recomputed(module: nn.Module, level: Recomputation) -> nn.Module:
    """`module` with recomputation at `level`; the module itself for none.

    Parameters stay the same objects. Raises `ParplanError` for an unknown level.
    """
    if level == "none":
        return module
    if level not in ("selective", "full"):
        raise unknown_name("recomputation", level, ("none", "selective", "full"))
    return Recomputed(module, level)


def _save_linear_products(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if op in LINEAR_PRODUCTS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


_selective_contexts = functools.partial(create_selective_checkpoint_contexts, _save_linear_products)
