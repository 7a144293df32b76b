"""Divisions of devices and batch into parallel degrees."""

import math
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from math import gcd
from typing import Any, NamedTuple

from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.recomputed import applicable, recomputed_by
from parplan.sim.plan import Plan, layers_with_ends, with_values, zero_fields
from parplan.sim.schedules import schedule_kind, why_not
from parplan.sim.workload import Workload


class Layout(NamedTuple):
    """The devices and the batch of a plan, divided; the rest follows from these."""

    tensor_parallel: int
    context_parallel: int
    num_stages: int
    expert_parallel: int
    expert_split: int
    """Tensor-parallel degree within an expert; 0: that of the rest."""
    batch_per_device: int

    def with_degrees(self, degrees: tuple[int, ...]) -> "Layout":
        """The same micro-batch size with other degrees."""
        return Layout._make((*degrees, self.batch_per_device))

    @property
    def degrees(self) -> tuple[int, int, int, int, int]:
        """All but the micro-batch size: what the devices are divided by."""
        return self[:5]


class Ordering(NamedTuple):
    """A schedule with its chunks per rank."""

    schedule: str
    virtual_stages: int
    ends: int = 0
    """How many layers embedding and head count as where layers are divided over the stages."""


_PLAN = Plan()
_ZERO = [zero_fields(stage) for stage in range(4)]


class LayoutGroup(NamedTuple):
    """All plans of one layout: every combination of the last four."""

    layout: Layout
    data_parallel: int
    num_micro_batches: int
    orderings: tuple[Ordering, ...]
    recomputations: tuple[str, ...]
    """Levels, and sets of operations (`RECOMPUTED`)."""
    zero_stages: tuple[int, ...]
    sequence_parallel: tuple[bool, ...]
    num_layers: int

    @property
    def choices(self) -> tuple[tuple[Any, ...], ...]:
        """The values of the last four."""
        return self.orderings, self.recomputations, self.zero_stages, self.sequence_parallel

    @property
    def radices(self) -> tuple[int, ...]:
        """The number of values of each dimension."""
        return tuple(map(len, self.choices))

    @property
    def size(self) -> int:
        """The number of plans."""
        return math.prod(self.radices)

    def plan(self, number: int) -> Plan:
        """The plan of that number, from 0 to `size` - 1."""
        _, b, c, d = self.radices
        number, sequence = divmod(number, d)
        number, zero = divmod(number, c)
        ordering, again = divmod(number, b)
        schedule, virtual, ends = self.orderings[ordering]
        level, ops = recomputed_by(self.recomputations[again])
        stages = self.layout.num_stages * virtual
        return with_values(
            _PLAN,
            {
                "num_stages": self.layout.num_stages,
                "num_micro_batches": self.num_micro_batches,
                "batch_per_device": self.layout.batch_per_device,
                "data_parallel": self.data_parallel,
                "tensor_parallel": self.layout.tensor_parallel,
                "sequence_parallel": self.sequence_parallel[sequence],
                "context_parallel": self.layout.context_parallel,
                "expert_parallel": self.layout.expert_parallel,
                "expert_tensor_parallel": self.layout.expert_split or None,
                "recomputation": level,
                "recomputed_ops": ops,
                "schedule": schedule,
                "virtual_stages": virtual,
                "stage_layers": layers_with_ends(self.num_layers, stages, ends),
                **_ZERO[self.zero_stages[zero]],
            },
        )


def divisors(number: int) -> list[int]:
    """All divisors of `number`, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


class JobSizes(NamedTuple):
    """Sizes that degrees and micro-batches have to divide."""

    num_devices: int
    global_batch: int
    seq_len: int
    num_layers: int
    num_experts: int
    """1: there are none."""
    tensor_degrees: tuple[int, ...]
    recomputations: tuple[str, ...]
    """Levels and sets of operations, of which every block has some."""


def sizes_of(workload: Workload, cluster: Cluster, allowed: Constraints) -> JobSizes:
    """The sizes of `workload` on `cluster`.

    Tensor parallelism divides heads and matrices. It stays inside a node and gives every rank heads
    of keys and values of its own, unless more is allowed: these are then copied.
    """
    model = workload.model
    heads, ranks = model.num_kv_heads, cluster.num_accelerators // cluster.num_nodes
    if allowed.tensor_parallel_across_nodes:
        heads, ranks = model.num_heads, cluster.num_accelerators
    divided = gcd(ranks, heads, model.ffn_size, model.hidden_size)
    return JobSizes(
        num_devices=cluster.num_accelerators,
        global_batch=workload.global_batch,
        seq_len=workload.seq_len,
        num_layers=model.num_layers,
        num_experts=1 if model.moe is None else model.moe.num_experts,
        tensor_degrees=tuple(divisors(divided)),
        recomputations=applicable(workload, allowed.recomputation),
    )


def groups(sizes: JobSizes, allowed: Constraints) -> Iterator[LayoutGroup]:
    """Every layout that has plans, in canonical order."""
    orderings = cache(partial(_orderings, sizes.num_layers, allowed))
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
                    yield from _groups(sizes, allowed, (tensor, context, stages, data), orderings)


def _groups(
    sizes: JobSizes,
    allowed: Constraints,
    degrees: tuple[int, int, int, int],
    orderings: Callable[[int, int], tuple[Ordering, ...]],
) -> Iterator[LayoutGroup]:
    tensor, context, stages, data = degrees
    can_split = tensor > 1 and sizes.seq_len % tensor == 0
    per_replica = sizes.global_batch // data
    # ZeRO and sequence parallelism have no effect where there is nothing to spread over.
    zero = tuple(z for z in range(4) if z in allowed.zero_stage) if data * context > 1 else (0,)
    sequence = allowed.sequence_parallel if can_split else (False,)
    for expert, split in _expert_degrees(sizes, allowed, tensor, data * context):
        for size in divisors(per_replica):
            count = per_replica // size
            if size not in allowed.batch_per_device:
                continue
            layout = Layout(tensor, context, stages, expert, split, size)
            group = LayoutGroup(
                *(layout, data, count, orderings(stages, count), sizes.recomputations),
                *(zero, sequence, sizes.num_layers),
            )
            if group.size:
                yield group


def _orderings(layers: int, allowed: Constraints, stages: int, count: int) -> tuple[Ordering, ...]:
    if stages == 1:
        return (Ordering("1f1b", 1),)
    if count not in allowed.num_micro_batches:
        return ()
    return tuple(
        Ordering(name, virtual, ends)
        for name in allowed.schedule
        for virtual, ends in stage_divisions(
            layers, stages, allowed.stage_ends, unequal_chunks=allowed.unequal_chunks
        )
        if virtual in allowed.virtual_stages
        and not _chunkless(name, virtual)
        and not why_not(name, stages, count, virtual)
    )


@lru_cache(maxsize=4096)
def stage_divisions(
    num_layers: int, num_ranks: int, stage_ends: tuple[int, ...], *, unequal_chunks: bool
) -> tuple[tuple[int, int], ...]:
    """(chunks of a rank, ends as layers) by which layers are divided over the stages.

    Chunks are equal, or, where they may be unequal, as few as there can be for each size of the
    largest stage. `stage_ends`: as in `layers_with_ends`; 0 comes first, others where they make
    another division.
    """
    found = list[tuple[int, int]]()
    for ends in stage_ends:
        largest = num_layers + ends + 1
        for virtual in range(1, num_layers // num_ranks + 2):
            stages = num_ranks * virtual
            if not ends and stages > num_layers:
                continue
            size, rest = divmod(num_layers + ends, stages)
            size += rest > 0
            is_wanted = not rest or virtual == 1 or (unequal_chunks and size < largest)
            largest = min(largest, size)
            if is_wanted and (not ends or _is_another(num_layers, stages, ends)):
                found.append((virtual, ends))
    return tuple(sorted(found))


def _is_another(num_layers: int, stages: int, ends: int) -> bool:
    """Whether counting the ends as layers makes another division than an even one."""
    split = layers_with_ends(num_layers, stages, ends)
    each, more = divmod(num_layers, stages)
    return split is not None and any(n != each + (s < more) for s, n in enumerate(split))


def _expert_degrees(
    sizes: JobSizes, allowed: Constraints, tensor: int, replicas: int
) -> Iterator[tuple[int, int]]:
    """Expert parallelism, and tensor parallelism within an expert (0: that of the rest).

    Experts are spread over all ranks of a stage that have other parts of them.
    """
    if sizes.num_experts == 1:
        yield 1, 0
        return
    splits = [0, *(s for s in divisors(tensor)[:-1] if s in allowed.expert_tensor_parallel)]
    for split in splits:
        ranks = replicas * tensor // (split or tensor)
        for expert in divisors(gcd(sizes.num_experts, ranks)):
            if expert in allowed.expert_parallel:
                yield expert, split


def _chunkless(name: str, virtual: int) -> bool:
    """Whether a schedule for chunks has one only: it is then another schedule of the catalogue."""
    return virtual == 1 and len(schedule_kind(name).virtual_stages) > 1
