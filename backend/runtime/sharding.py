"""Data parallelism and sharding of a stage with stock torch modules.

| plan | gradients and parameters | optimizer |
|---|---|---|
| no sharding | DistributedDataParallel, or fully_shard over one rank with copies | own |
| distribute_param (ZeRO-1) | DistributedDataParallel | ZeroRedundancyOptimizer |
| + distribute_gradient (ZeRO-2) | fully_shard, parameters kept from forward to backward | own |
| + distribute_low_prec_param (ZeRO-3) | fully_shard, parameters gathered for each use | own |

ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054. Outside of a pipeline, fully_shard reduces the
gradients of every micro-batch; in one, torch's runtime adds them up and reduces them once.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from parplan.backend.executable import reduces_by_hooks
from parplan.backend.runtime.groups import Groups
from parplan.backend.runtime.tied_parameters import is_free, shared_in
from parplan.sim.plan import Plan


def replicate(module: nn.Module, layers: Iterable[nn.Module], plan: Plan, groups: Groups) -> Any:
    """The stage `module` made ready for the data-parallel ranks of `plan`.

    layers: its layers, the units that are gathered together. The parameters of a stage that
    fully_shard takes become DTensors of this rank's part.
    """
    if plan.replicas == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    if reduces_by_hooks(plan):
        if any(isinstance(p.data, FakeTensor) for p in module.parameters()):
            return module  # of a virtual rank, which has nothing to reduce
        return DistributedDataParallel(module, process_group=groups.group("shards"))
    # A mesh of two dimensions: copies of the first, sharded over the second.
    whole = groups.part("shards").size() == plan.replicas
    mesh = groups.part("shards") if whole else groups.part("copies", "shards")
    # Layers that share a parameter are gathered with the stage.
    units = list(layers)
    shared = shared_in(units)
    with unset_fake_temporarily():  # meshes are real also where the parameters are not
        for part in [*(layer for layer in units if is_free(layer, shared)), module]:
            fully_shard(part, mesh=mesh, reshard_after_forward=plan.distribute_low_prec_param)
    return module


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    plan: Plan,
    groups: Groups,
    kind: type[Optimizer],
    **settings: Any,
) -> Optimizer:
    """An optimizer of `kind`, whose state is sharded as the plan says."""
    if plan.zero_stage == 1 and plan.replicas > 1:
        group = groups.group("shards")
        return ZeroRedundancyOptimizer(
            list(parameters), optimizer_class=kind, process_group=group, **settings
        )
    return kind(parameters, **settings)


def no_reduction(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Gradients of this pass stay local, where the next one reduces them as well."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def kept_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients of before are added to those of the body.

    torch's pipeline stages forget the gradients of fully_shard when they get ready for other
    batches, or for evaluation after training (torch 2.13).
    """
    held = [(p, p.grad) for p in parameters if p.grad is not None]
    for parameter, _ in held:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in held:
            if parameter.grad is not None:
                gradient.add_(parameter.grad)
            parameter.grad = gradient


def free_gathered(module: nn.Module) -> None:
    """Give up parameters that a forward without a backward has gathered: they would grow stale."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
