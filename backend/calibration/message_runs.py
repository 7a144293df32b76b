"""Collectives and messages as torch.distributed runs them, ready to be repeated."""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from parplan.backend.calibration.operands import Run
from parplan.hardware.estimates.profile import CollectiveCall


class NeighbourGroups:
    """Groups of neighbouring processes, one of each asked size that this process belongs to."""

    def __init__(self, sizes: set[int]) -> None:
        self._groups: dict[int, dist.ProcessGroup | None] = {}
        world, rank = dist.get_world_size(), dist.get_rank()
        for size in sorted(sizes):
            for first in range(0, world - size + 1, size):
                ranks = list(range(first, first + size))
                # Every process takes part in making every group.
                group = dist.group.WORLD if size == world else dist.new_group(ranks)
                if rank in ranks:
                    self._groups[size] = group

    def of(self, size: int) -> dist.ProcessGroup | None:
        """The group of `size` processes with this one; None where there is none."""
        return self._groups.get(size)


def collective_run(
    collective: CollectiveCall, groups: NeighbourGroups, device: torch.device
) -> Run | None:
    """Return a function that repeats `collective`; None on a process that takes no part.

    Raises `RuntimeError` or the like where the backend has no such operation.
    """
    values = torch.zeros(collective.num_bytes // 4, device=device)
    if collective.op == "send":
        return _ping_pong(values)
    group = groups.of(collective.num_ranks)
    if group is None:
        return None
    start = STARTERS[collective.op](values, group, collective.num_ranks)

    def run(times: int) -> None:
        for _ in range(times):
            start()

    return run


def _ping_pong(values: torch.Tensor) -> Run | None:
    """Two messages, there and back, are two repetitions; the last odd process rests."""
    rank = dist.get_rank()
    other = rank ^ 1
    if other >= dist.get_world_size():
        return None

    def run(times: int) -> None:
        for i in range(times):
            if (i + rank) % 2 == 0:
                dist.send(values, other)
            else:
                dist.recv(values, other)

    return run


Starter = Callable[[torch.Tensor, dist.ProcessGroup, int], Callable[[], object]]


def _all_reduce(values: torch.Tensor, group: dist.ProcessGroup, size: int) -> Callable[[], object]:
    return lambda: dist.all_reduce(values, group=group)


def _all_gather(values: torch.Tensor, group: dist.ProcessGroup, size: int) -> Callable[[], object]:
    own = torch.zeros(len(values) // size, device=values.device)
    return lambda: dist.all_gather_into_tensor(values, own, group=group)


def _reduce_scatter(
    values: torch.Tensor, group: dist.ProcessGroup, size: int
) -> Callable[[], object]:
    own = torch.zeros(len(values) // size, device=values.device)
    return lambda: dist.reduce_scatter_tensor(own, values, group=group)


def _broadcast(values: torch.Tensor, group: dist.ProcessGroup, size: int) -> Callable[[], object]:
    source = dist.get_global_rank(group, 0)
    return lambda: dist.broadcast(values, source, group=group)


def _all_to_all(values: torch.Tensor, group: dist.ProcessGroup, size: int) -> Callable[[], object]:
    received = torch.empty_like(values)
    return lambda: dist.all_to_all_single(received, values, group=group)


STARTERS: Mapping[str, Starter] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "broadcast": _broadcast,
    "all_to_all": _all_to_all,
}
