"""The device mesh of a plan: this process's place, and the groups it communicates in.

Ranks are placed as `parplan.sim.cost_model.communication` says: tensor parallelism innermost, then
context, data and pipeline parallelism. The data-parallel ranks that parameters are sharded over
are neighbours.

"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from parplan.backend.executable import reduces_by_hooks
from parplan.backend.models.sequence_part import SequencePart
from parplan.sim.plan import Plan

DIMENSIONS = ("pipeline", "copies", "shards", "tensor")
"""Outermost first. Data- and context-parallel ranks, the latter innermost: copies of groups that
each hold all parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The place of one process and the mesh of all; without a mesh there is only this one."""

    mesh: DeviceMesh | None
    pipeline_rank: int = 0
    data_rank: int = 0
    context: SequencePart | None = None
    """The part of every sequence, where these are spread over ranks."""

    def part(self, *names: str) -> DeviceMesh:
        """The mesh of the named dimensions, with this process in it."""
        assert self.mesh is not None
        return self.mesh[names if len(names) > 1 else names[0]]

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group of one dimension, with this process in it."""
        return self.part(name).get_group()


Sizes = tuple[int, int, int, int, int]


def sizes_of(plan: Plan) -> Sizes:
    """The sizes of `DIMENSIONS`, and context-parallel ranks.

    Plans for which they are equal may share groups.
    """
    shards = shards_of(plan)
    copies = plan.replicas // shards
    return plan.num_stages, copies, shards, plan.tensor_parallel, plan.context_parallel


def make_groups(plan: Plan, device: torch.device) -> Groups:
    """The groups of `plan`; all of its processes call this together."""
    if plan.num_devices == 1:
        return Groups(mesh=None)
    *sizes, context = sizes_of(plan)
    mesh = init_device_mesh(device.type, tuple(sizes), mesh_dim_names=DIMENSIONS)
    _warm_up(mesh, device)
    pipeline, copy, shard, _ = mesh.get_coordinate() or (0, 0, 0, 0)
    data, place = divmod(copy * sizes[2] + shard, context)
    part = _context_part(mesh, context, place) if context > 1 else None
    return Groups(mesh=mesh, pipeline_rank=pipeline, data_rank=data, context=part)


def _context_part(mesh: DeviceMesh, count: int, place: int) -> SequencePart:
    stages, copies, shards, split = mesh.mesh.shape
    ranks = mesh.mesh.view(stages, copies * shards // count, count, split)
    lists = ranks.movedim(2, -1).flatten(0, 2).tolist()
    group, _ = dist.new_subgroups_by_enumeration(lists)  # type: ignore[no-untyped-call]
    assert group is not None
    return SequencePart(group, place, count)


def _warm_up(mesh: DeviceMesh, device: torch.device) -> None:
    """Use every group once by all of its processes.

    nccl connects a group at its first use, in which all of its processes have to take part; with
    shapes known in advance, the first of a pipeline would be a message of two of them (torch 2.13).
    """
    if dist.get_backend() == "fake":
        return
    for name in mesh.mesh_dim_names or ():
        group = mesh.get_group(name)
        if group.size() > 1:
            dist.all_reduce(torch.zeros(1, device=device), group=group)


def shards_of(plan: Plan) -> int:
    """The size of the dimension "shards".

    Replicas that fully_shard makes are copies of shards of one rank each; those that
    DistributedDataParallel makes are along this dimension.
    """
    if plan.zero_stage >= 2:
        return plan.sharded_over
    return plan.replicas if reduces_by_hooks(plan) else 1
