"""Divisions of devices and batch into parallel degrees."""

import math
from collections.abc import Iterator
from math import gcd
from typing import Any, NamedTuple

from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import Constraints
from parplan.sim.plan import Plan, Recomputation, zero_fields
from parplan.sim.schedules import schedule_kind, why_not
from parplan.sim.workload import Workload


class Layout(NamedTuple):
    """The devices and the batch of a plan, divided; the rest follows from these."""

    tensor_parallel: int
    context_parallel: int
    num_stages: int
    expert_parallel: int
    batch_per_device: int

    @property
    def degrees(self) -> tuple[int, int, int, int]:
        """All but the micro-batch size: what the devices are divided by."""
        return self[:4]


class Ordering(NamedTuple):
    """A schedule with its chunks per rank."""

    schedule: str
    virtual_stages: int


class LayoutGroup(NamedTuple):
    """All plans of one layout: every combination of the last four."""

    layout: Layout
    data_parallel: int
    num_micro_batches: int
    orderings: tuple[Ordering, ...]
    recomputations: tuple[Recomputation, ...]
    zero_stages: tuple[int, ...]
    sequence_parallel: tuple[bool, ...]

    @property
    def choices(self) -> tuple[tuple[Any, ...], ...]:
        """The values of the last four."""
        return self.orderings, self.recomputations, self.zero_stages, self.sequence_parallel

    @property
    def radices(self) -> tuple[int, ...]:
        """How many values each of them has."""
        return tuple(map(len, self.choices))

    @property
    def size(self) -> int:
        """How many plans there are."""
        return math.prod(self.radices)

    def plan(self, number: int) -> Plan:
        """The plan of that number, from 0 to `size` - 1."""
        _, b, c, d = self.radices
        number, sequence = divmod(number, d)
        number, zero = divmod(number, c)
        ordering, again = divmod(number, b)
        schedule, virtual = self.orderings[ordering]
        return Plan(
            num_stages=self.layout.num_stages,
            num_micro_batches=self.num_micro_batches,
            batch_per_device=self.layout.batch_per_device,
            data_parallel=self.data_parallel,
            tensor_parallel=self.layout.tensor_parallel,
            sequence_parallel=self.sequence_parallel[sequence],
            context_parallel=self.layout.context_parallel,
            expert_parallel=self.layout.expert_parallel,
            recomputation=self.recomputations[again],
            schedule=schedule,
            virtual_stages=virtual,
            **zero_fields(self.zero_stages[zero]),  # type: ignore[arg-type]
        )


def divisors(number: int) -> list[int]:
    """All divisors of `number`, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


class JobSizes(NamedTuple):
    """What degrees and micro-batches have to divide."""

    num_devices: int
    global_batch: int
    seq_len: int
    num_layers: int
    num_experts: int
    """1: there are none."""
    tensor_degrees: tuple[int, ...]


def sizes_of(workload: Workload, cluster: Cluster) -> JobSizes:
    """The sizes of `workload` on `cluster`.

    Tensor parallelism stays inside a node, and divides heads and matrices.
    """
    model = workload.model
    divided = gcd(model.num_kv_heads, model.ffn_size, model.hidden_size)
    return JobSizes(
        num_devices=cluster.num_accelerators,
        global_batch=workload.global_batch,
        seq_len=workload.seq_len,
        num_layers=model.num_layers,
        num_experts=1 if model.moe is None else model.moe.num_experts,
        tensor_degrees=tuple(divisors(gcd(cluster.num_accelerators // cluster.num_nodes, divided))),
    )


def groups(sizes: JobSizes, allowed: Constraints) -> Iterator[LayoutGroup]:
    """Every layout that has plans, in canonical order."""
    for tensor in sizes.tensor_degrees:
        if tensor not in allowed.tensor_parallel:
            continue
        devices = sizes.num_devices // tensor
        for context in divisors(gcd(devices, sizes.seq_len)):
            if context not in allowed.context_parallel:
                continue
            for stages in divisors(devices // context):
                if stages > sizes.num_layers or stages not in allowed.num_stages:
                    continue
                data = devices // context // stages
                if sizes.global_batch % data == 0 and data in allowed.data_parallel:
                    yield from _groups(sizes, allowed, tensor, context, stages, data)


def _groups(
    sizes: JobSizes, allowed: Constraints, tensor: int, context: int, stages: int, data: int
) -> Iterator[LayoutGroup]:
    experts = gcd(sizes.num_experts, data * context)
    can_split = tensor > 1 and sizes.seq_len % tensor == 0
    per_replica = sizes.global_batch // data
    # ZeRO and sequence parallelism have no effect where there is nothing to spread over.
    zero = tuple(z for z in range(4) if z in allowed.zero_stage) if data * context > 1 else (0,)
    sequence = allowed.sequence_parallel if can_split else (False,)
    for expert in divisors(experts):
        if expert not in allowed.expert_parallel:
            continue
        for size in divisors(per_replica):
            count = per_replica // size
            if size not in allowed.batch_per_device:
                continue
            orderings = _orderings(sizes.num_layers, allowed, stages, count)
            layout = Layout(tensor, context, stages, expert, size)
            group = LayoutGroup(
                layout, data, count, orderings, allowed.recomputation, zero, sequence
            )
            if group.size:
                yield group


def _orderings(layers: int, allowed: Constraints, stages: int, count: int) -> tuple[Ordering, ...]:
    if stages == 1:
        return (Ordering("1f1b", 1),)
    if count not in allowed.num_micro_batches:
        return ()
    chunks = [v for v in divisors(layers // stages) if layers % (stages * v) == 0 or v == 1]
    return tuple(
        Ordering(name, virtual)
        for name in allowed.schedule
        for virtual in chunks
        if virtual in allowed.virtual_stages
        and not _chunkless(name, virtual)
        and not why_not(name, stages, count, virtual)
    )


def _chunkless(name: str, virtual: int) -> bool:
    """Whether a schedule for chunks has one only: it is then another schedule of the catalogue."""
    return virtual == 1 and len(schedule_kind(name).virtual_stages) > 1
