"""All plans of a space at once, as arrays: bounds on their steps, and whether they fit.

A plan is a row; a row is made of parts (`parplan.planners.parts`) by the arithmetic that
`parplan.sim` does for one plan, so that bounds and verdicts equal those of single plans. Rows are
in the order of the space; no `Plan` is made of a row before it is asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from parplan.hardware.remember import remembering
from parplan.planners.bound import stages_by_rank, step_bounds_s
from parplan.planners.layouts import Group
from parplan.planners.parts import Floats, Parts
from parplan.planners.space import Space
from parplan.sim.memory import activation_peak
from parplan.sim.peaks import Moments
from parplan.sim.plan import Plan
from parplan.sim.schedules import ScheduleKind, schedule_kind
from parplan.sim.ticks import ticks_of_seconds

IMPOSSIBLE = float("inf")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one group with one number of chunks: recomputation x ZeRO x sequence parallel."""

    group: Group
    first: int
    """The place of the group's first plan in the space."""
    virtual: int
    kinds: tuple[ScheduleKind, ...]
    """What the orderings with so many chunks look like to the bound, each once."""
    numbers: tuple[tuple[int, ScheduleKind], ...]
    """The place of each of these orderings among those of the group, and what it looks like."""

    @property
    def inner(self) -> tuple[int, int, int]:
        """Values of recomputation, ZeRO, sequence parallelism."""
        _, *inner = self.group.radices
        return inner[0], inner[1], inner[2]

    @property
    def size(self) -> int:
        """Rows."""
        a, b, c = self.inner
        return a * b * c

    def ordering_of(self, schedule: str) -> int | None:
        """The place of the schedule, with so many chunks, among the orderings of the group."""
        wanted = schedule, self.virtual
        return self.group.orderings.index(wanted) if wanted in self.group.orderings else None

    def places(self, number: int) -> slice:
        """Where the plans with that ordering are in the space."""
        begin = self.first + number * self.size
        return slice(begin, begin + self.size)

    def plans(self) -> list[Plan]:
        """A plan for each row, with the first of the orderings."""
        begin = self.numbers[0][0] * self.size
        return [self.group.plan(begin + row) for row in range(self.size)]


def blocks_of(space: Space) -> Iterator[Block]:
    """Every group of `space` by its numbers of chunks."""
    first = 0
    for group in space.groups:
        for virtual in dict.fromkeys(v for _, v in group.orderings):
            numbers = tuple(
                (number, _as_bound(schedule_kind(name)))
                for number, (name, v) in enumerate(group.orderings)
                if v == virtual
            )
            kinds = tuple(dict.fromkeys(kind for _, kind in numbers))
            yield Block(group, first, virtual, kinds, numbers)
        first += group.size


def _as_bound(kind: ScheduleKind) -> ScheduleKind:
    """A schedule that has the same bounds: these know placement, splits and overlaps only."""
    plain = ScheduleKind(function=_nothing, placement=kind.placement)
    return replace(plain, splits_backward=kind.splits_backward, overlaps=kind.overlaps)


def _nothing(*sizes: int) -> tuple[()]:
    return ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks with as many ranks and chunks, one below the other: arrays [rows, kinds]."""

    blocks: list[Block]
    plans: list[Plan]
    place: npt.NDArray[np.int64]
    """For each stage its kind."""
    activations: Floats
    """[rows, kinds, 3]."""
    states: Floats
    """[rows, kinds, 5]."""


class SpaceTable:
    """The rows of a space. Memory is at hand when it is made, bounds after `bounds`."""

    def __init__(self, space: Space, memory_ratio: float, parts: Parts | None = None) -> None:
        self.space = space
        self.limit = memory_ratio * space.cluster.accelerator.memory_bytes
        self.parts = Parts(space.workload, remembering(space.cluster)) if parts is None else parts
        by_shape: dict[tuple[int, int], list[Block]] = {}
        for block in blocks_of(space):
            by_shape.setdefault((block.group.layout.num_stages, block.virtual), []).append(block)
        self._rows = {shape: self._with_memory(blocks) for shape, blocks in by_shape.items()}

    def bounds(self) -> Floats:
        """Seconds that a step of each plan takes at least; infinite for those that cannot fit."""
        found = np.full(len(self.space), IMPOSSIBLE)
        for rows in self._rows.values():
            by_kind: dict[ScheduleKind, list[tuple[Block, int]]] = {}
            for block, begin in zip(rows.blocks, _begins(rows.blocks), strict=True):
                for kind in block.kinds:
                    by_kind.setdefault(kind, []).append((block, begin))
            for kind, members in by_kind.items():
                self._bound(rows, kind, members, found)
        return found

    def rule_out(
        self, key: tuple[str, int, int, int], moments: Sequence[Moments], bounds: Floats
    ) -> None:
        """Make the `bounds` infinite of all plans with this `schedule_key` that do not fit.

        `moments`: those of their lists.
        """
        name, ranks, virtual, count = key
        rows = self._rows[ranks, virtual]
        for block, begin in zip(rows.blocks, _begins(rows.blocks), strict=True):
            number = block.ordering_of(name)
            if number is not None and block.group.num_micro_batches == count:
                fits = self._fits(rows, slice(begin, begin + block.size), moments)
                bounds[block.places(number)][~fits] = IMPOSSIBLE

    def _fits(self, rows: Rows, own: slice, moments: Sequence[Moments]) -> Bools:
        """As `parplan.sim.memory.rank_memory` adds it up for one plan."""
        activations, states = rows.activations[own], rows.states[own]
        fits = np.ones(len(activations), dtype=bool)
        seen: set[tuple[tuple[int, ...], bytes]] = set()
        for rank in moments:
            kinds = tuple(int(rows.place[stage]) for stage in rank.stages)
            if (kinds, rank.counts.tobytes()) in seen:
                continue
            seen.add((kinds, rank.counts.tobytes()))
            columns = [activations[:, k, c] for c in (0, 2, 1) for k in kinds]
            total = _state(states, list(kinds)) + activation_peak(rank, columns)
            fits &= total <= self.limit
        return fits

    def _with_memory(self, blocks: list[Block]) -> Rows:
        plans, activations, states = [], [], []
        for block in blocks:
            own = block.plans()
            plans += own
            for plan in own:
                activations.append(self.parts.activations(plan))
                states.append(self.parts.states(plan))
        place = self.parts.kinds(plans[0]).place
        return Rows(blocks, plans, place, np.array(activations), np.array(states))

    def _may_fit(self, rows: Rows, kind: ScheduleKind) -> Bools:
        """As `parplan.planners.bound.memory_bound_bytes` has it."""
        own = rows.place[stages_by_rank(kind, rows.plans[0].num_stages, len(rows.place))]
        state = rows.states[:, :, :3]
        each = state[:, :, 0] + state[:, :, 1] + state[:, :, 2]
        one = rows.activations[:, :, 0] + rows.activations[:, :, 1]
        may = np.ones(len(each), dtype=bool)
        for ranks in {tuple(row) for row in own.tolist()}:
            held, most = np.zeros(len(each)), np.zeros(len(each))
            for stage in ranks:
                held, most = held + each[:, stage], np.maximum(most, one[:, stage])
            may &= (held + most) * (1 - 1e-12) <= self.limit
        return may

    def _bound(
        self, rows: Rows, kind: ScheduleKind, members: list[tuple[Block, int]], found: Floats
    ) -> None:
        chosen = np.concatenate([np.arange(begin, begin + b.size) for b, begin in members])
        chosen = chosen[self._may_fit(rows, kind)[chosen]]
        if not len(chosen):
            return
        plans = [rows.plans[row] for row in chosen.tolist()]
        ticks = ticks_of_seconds(
            **{name: values[:, rows.place] for name, values in self._costs(plans).items()}
        )
        counts = [plan.num_micro_batches for plan in plans]
        bound = np.full(len(rows.plans), IMPOSSIBLE)
        bound[chosen] = step_bounds_s(kind, plans[0].num_stages, counts, ticks)
        for block, begin in members:
            for number, own in block.numbers:
                if own == kind:
                    found[block.places(number)] = bound[begin : begin + block.size]

    def _costs(self, plans: list[Plan]) -> dict[str, Floats]:
        """The fields of `StageCosts` that are not 0, shape [plans, kinds].

        As `parplan.sim.cost_model.stage_costs` has them for one plan.
        """
        layers = np.array([self.parts.layers(plan) for plan in plans])
        work = np.array([self.parts.parameters(plan) for plan in plans])
        forward, backward, weights, count = np.moveaxis(layers, 2, 0)
        gathered, reduced, optimizer = np.moveaxis(work, 2, 0)
        zero = np.array([plan.zero_stage for plan in plans])[:, None]
        messages = np.array([self.parts.message(plan) for plan in plans])
        framework = self.space.workload.framework
        message_s = framework.message_s if plans[0].num_stages > 1 else 0.0
        each_time = np.where(zero == 3, gathered, 0.0)
        both = np.where(zero == 3, each_time + reduced, 0.0)
        overlaps = np.array([plan.overlap_gradient_reduction for plan in plans])[:, None]
        shape = forward.shape
        return {
            "forward_s": _prefetched(forward, each_time, count) + message_s,
            "input_gradient_s": _prefetched(backward, both, count) + message_s,
            "weight_gradient_s": weights,
            "send_s": np.broadcast_to(messages[:, :1], shape),
            "latency_s": np.broadcast_to(messages[:, 1:], shape),
            "reduce_s": reduced,
            "reduce_buckets": np.where(overlaps, np.maximum(1.0, count), 1.0),
            "reduce_each_micro_batch": np.broadcast_to(zero >= 2, shape),
            "optimizer_s": optimizer,
            "gather_s": np.where((zero == 1) | (zero == 2), gathered, 0.0),
        }


def _prefetched(compute_s: Floats, gather_s: Floats, num_layers: Floats) -> Floats:
    """`parplan.sim.cost_model.prefetched_s` of arrays."""
    layers = np.maximum(1.0, num_layers)
    compute, gather = compute_s / layers, gather_s / layers
    return np.asarray(gather + (layers - 1) * np.maximum(compute, gather) + compute)


def _state(states: Floats, kinds: list[int]) -> Floats:
    """`RankMemory.state_bytes` of a rank with such stages."""

    def total(column: int) -> Floats:
        values = np.zeros(len(states))
        for kind in kinds:
            values = values + states[:, kind, column]
        return values

    whole = [states[:, kinds, column].max(axis=1) for column in (3, 4)]
    return (whole[0] + total(0)) + (whole[1] + total(1)) + total(2)


def _begins(blocks: list[Block]) -> list[int]:
    """The first row of each block."""
    return [0, *np.cumsum([block.size for block in blocks])[:-1].tolist()]
