"""A loss whose backward has been computed already."""

from typing import Any

import torch

from parplan.errors import ParplanError


class KnownGradients(torch.autograd.Function):
    """Gives out a loss; its backward hands on known gradients, scaled."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: torch.Tensor,
        gradients: list[torch.Tensor | None],
        scale: float,
        anchor: torch.Tensor,
        *parameters: Any,
    ) -> torch.Tensor:
        """The loss with gradients that are known already.

        gradients: of `scale` times the loss, for each of the parameters. anchor: requires a
        gradient, so that the loss has one where all parameters of this process are frozen.
        """
        ctx.gradients, ctx.scale = gradients, scale
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        """The gradients, once, with what the script has multiplied the loss by."""
        if ctx.gradients is None:
            raise ParplanError("backward was called a second time on the same loss")
        # Not kept here, so that autograd may take the tensors over instead of copying them.
        gradients, ctx.gradients = ctx.gradients, None
        factor = outer[0] / ctx.scale
        given = [g for g in gradients if g is not None]
        if factor.device.type == "cuda":  # not read, for which the host would wait
            torch._foreach_mul_(given, factor)
        elif factor.item() != 1.0:
            torch._foreach_mul_(given, factor.item())
        return None, None, None, None, *gradients
