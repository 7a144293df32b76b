"""Random numbers that are the same for all rows, to compare a batch with its parts."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class AlikeNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every row draws what the first row of the first run drew.

    A model that draws in its forward (a variational autoencoder, a diffusion model) gives other
    outputs each time; under this mode those of a batch are those of its parts.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[torch.Tensor] = []
        self.number = 0
        self.first = True
        self.idle = False
        """Whether the model draws nothing."""

    def again(self) -> None:
        """Draw the same numbers in the same order from now on."""
        self.number, self.first = 0, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`; rows of what it drew are made alike."""
        found = func(*args, **(kwargs or {}))
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        if not drawn or not isinstance(found, torch.Tensor):
            return found
        if self.first:
            self.rows.append(found[:1].clone() if found.dim() else found.clone())
        number, self.number = self.number, self.number + 1
        if number < len(self.rows):
            row = self.rows[number]
            if row.dim() == found.dim() and row.shape[1:] == found.shape[1:]:
                found.copy_(row.expand_as(found))
        return found
