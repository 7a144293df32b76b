"""The device mesh of a plan: this process's place, and the groups it communicates in.

Ranks are placed as `parplan.sim.cost_model.communication` says: tensor parallelism innermost, then
data, then pipeline parallelism. The data-parallel ranks that parameters are sharded over are
neighbours.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from parplan.backend.executable import reduces_by_hooks
from parplan.sim.plan import Plan

DIMENSIONS = ("pipeline", "copies", "shards", "tensor")
"""Outermost first. Data-parallel ranks: copies of groups that each hold all parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The place of one process and the mesh of all; without a mesh there is only this one."""

    mesh: DeviceMesh | None
    pipeline_rank: int = 0
    data_rank: int = 0

    def part(self, *names: str) -> DeviceMesh:
        """The mesh of the named dimensions, with this process in it."""
        assert self.mesh is not None
        return self.mesh[names if len(names) > 1 else names[0]]

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group of one dimension, with this process in it."""
        return self.part(name).get_group()


Sizes = tuple[int, int, int, int]


def sizes_of(plan: Plan) -> Sizes:
    """The sizes of `DIMENSIONS`: plans for which they are equal may share groups."""
    shards = shards_of(plan)
    return plan.num_stages, plan.data_parallel // shards, shards, plan.tensor_parallel


def make_groups(plan: Plan, device: torch.device) -> Groups:
    """The groups of `plan`; all of its processes call this together."""
    if plan.num_devices == 1:
        return Groups(mesh=None)
    sizes = sizes_of(plan)
    shards = sizes[2]
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=DIMENSIONS)
    _warm_up(mesh, device)
    pipeline, copy, shard, _ = mesh.get_coordinate() or (0, 0, 0, 0)
    return Groups(mesh=mesh, pipeline_rank=pipeline, data_rank=copy * shards + shard)


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
    return plan.data_parallel if reduces_by_hooks(plan) else 1
