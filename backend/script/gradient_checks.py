"""Whether there is anything to step with, and whether it is of the plan."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from parplan.backend.runtime.pipeline import Planned
from parplan.backend.workers.processes import num_processes
from parplan.errors import ParplanError


def check_gradients(step: Planned, forwards: int) -> None:
    """Raise `ParplanError` where an optimizer is about to step and there was no backward."""
    trained = [p for p in step.parameters() if p.requires_grad]
    if trained and all(p.grad is None for p in trained):
        times = "once" if forwards == 1 else f"{forwards} times"
        raise ParplanError(
            f"the optimizer steps without gradients: the model was called {times} since the last "
            "step, but no backward of its loss"
        )


def refuse_steps_without_calls(model: nn.Module) -> Callable[[], None]:
    """Raise `ParplanError` where an optimizer steps by gradients of a model that was never called.

    Until what comes back is called: then the model has a plan.
    """
    if num_processes() == 1:
        return lambda: None
    alive = weakref.ref(model)
    name = type(model).__name__

    def check(optimizer: Optimizer, *_: Any) -> None:
        if (found := alive()) is None:
            return
        known = {id(parameter) for parameter in found.parameters()}
        for group in optimizer.param_groups:
            if group.get("lr") == 0:
                continue  # changes nothing: so torch makes the state that a checkpoint fills
            if any(p.grad is not None and id(p) in known for p in group["params"]):
                raise ParplanError(
                    f"the optimizer steps, but {name} has not been called since the line, so there "
                    "is no plan and every process would train alone: call the model itself "
                    "(model(...), not another method or a part of it), and compute in its forward"
                )

    return register_optimizer_step_pre_hook(check).remove
