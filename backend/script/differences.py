"""What a model does otherwise under a plan than in one process, said once."""

import os
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from parplan.sim.plan import Plan

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def differences(
    model: nn.Module, plan: Plan, batch: int, *, whole_statistics: bool = False
) -> Iterator[str]:
    """A line for each; `batch`: rows of the global one. `model`: whole, before it is cut.

    whole_statistics: whether BatchNorm sees all rows.
    """
    parts = plan.data_parallel * plan.num_micro_batches
    modules = [module for module in model.modules() if module is not model]
    by_batch = any(isinstance(m, _BatchNorm) and m.training for m in modules)
    if parts > 1 and by_batch and not whole_statistics:
        yield (
            f"BatchNorm: its statistics are those of {plan.batch_per_device} rows, one "
            f"micro-batch, not of all {batch}; take one without a batch (GroupNorm, LayerNorm) for "
            "the losses of one process"
        )
    if plan.num_devices > 1 and any(m.p > 0 for m in modules if isinstance(m, nn.Dropout)):
        yield "Dropout: every process draws its own numbers, not those of one process"
    if parts > 1 and any(getattr(m, name, None) for m in modules for name in HOOKS):
        yield f"hooks of modules run for each of {parts} micro-batches, not once for the batch"


def shared_cores(num_local: int, on_gpu: bool) -> Iterator[str]:
    """A line where processes do not have a core each, which no prediction here knows of."""
    cores = num_cores()
    if not on_gpu and num_local > cores:
        yield (
            f"{num_local} processes share {cores} cores: they wait for each other's turns, which "
            "is not predicted; a measured step may be far from the predicted one"
        )


def load_note(num_local: int) -> str:
    """What else ran on this machine in the last minute; empty where that is little."""
    cores = num_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= max(cores, num_local) + 1:
        return ""
    return f"; other programs ran meanwhile (load {load:.1f} on {cores} cores)"


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
