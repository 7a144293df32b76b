"""Bounds and memory verdicts of all plans of a space, as arrays.

A plan is a row; a row is made of parts (`parplan.planners.costs.cost_tables`) by the arithmetic
that `parplan.sim` does for one plan, so that bounds and verdicts equal those of single plans. Rows
are in the order of the space; no `Plan` is made of a row before it is asked for.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from parplan.hardware.machines.cached_cluster import with_kernel_cache
from parplan.planners.bounds.schedule_bounds import least_bytes, stages_of_rows, step_bounds_s
from parplan.planners.bounds.space_rows import ONE, OUTER, ZERO, Column, RowBlock, Rows, blocks_of
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.spaces.space import Space, ends_of
from parplan.sim.cost_model.communication import slowed_share
from parplan.sim.cost_model.stage_costs import host_message_s, reduces_once
from parplan.sim.cost_model.stage_formula import LayerWork
from parplan.sim.cost_model.stage_formula_of_rows import (
    Floats,
    SurroundingsOfRows,
    costs_of_rows,
)
from parplan.sim.fast.fast import Kernel, fast_many
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak_of_rows import rows_fit
from parplan.sim.plan import Plan
from parplan.sim.schedules import ScheduleKind, schedule_kind
from parplan.sim.step.tape import Tape
from parplan.sim.ticks import Ints, StageTicks, ticks_of_seconds

IMPOSSIBLE = float("inf")

ScheduleKey = tuple[str, int, int, int]
"""What `parplan.sim.prediction.predict.schedule_key` gives."""

Shape = tuple[int, int, int, bool]
"""(pipeline ranks, chunks of a rank, ends as layers, whether every stage is on one rank) of plans
whose stages have equal layers."""

Bools = npt.NDArray[np.bool_]


class SpaceTable:
    """The rows of a space. Memory is at hand when it is made, bounds after `bounds`."""

    def __init__(self, space: Space, memory_ratio: float, parts: CostTables | None = None) -> None:
        self.space = space
        self.limit = memory_ratio * space.cluster.accelerator.memory_bytes
        self.parts = (
            CostTables(space.workload, with_kernel_cache(space.cluster)) if parts is None else parts
        )
        by_shape: dict[Shape, list[RowBlock]] = {}
        for block in blocks_of(space):
            shape = block.group.layout.num_stages, block.virtual, block.ends, block.one_copy
            by_shape.setdefault(shape, []).append(block)
        self.by_shape = {shape: self._with_memory(blocks) for shape, blocks in by_shape.items()}

    def bounds(self) -> Floats:
        """Seconds that a step of each row takes at least; infinite for those that cannot fit."""
        found = np.full(self.space.num_rows, IMPOSSIBLE)
        for rows in self.by_shape.values():
            kinds = dict.fromkeys(kind for block in rows.blocks for kind in block.kinds)
            possible = {kind: self._least_bytes(rows, kind) <= self.limit for kind in kinds}
            kept = np.logical_or.reduce(list(possible.values()))
            if not kept.any():
                continue
            ticks, counts = self._ticks(rows, kept)
            row_of = np.cumsum(kept) - 1
            for kind, may in possible.items():
                chosen = np.flatnonzero(may)
                if not len(chosen):
                    continue
                bound = np.full(len(may), IMPOSSIBLE)
                own = stages_of_rows(ticks, row_of[chosen], rows.place)
                bound[chosen] = step_bounds_s(kind, rows.num_ranks, counts[chosen], own)
                _write(rows, kind, bound, found)
        return found

    def wanted_bounds(self) -> Floats:
        """The same, infinite also for the plans that the space does not want."""
        found, space = self.bounds(), self.space
        if space.why_not is not None and not space.constraints.has_variants:
            found[[bool(space.why_not(plan)) for plan in space]] = IMPOSSIBLE
        return found

    def costs(self, numbers: Sequence[int], plans: Sequence[Plan]) -> StageTicks:
        """The costs of plans with equal lists, by their numbers in the space: [plans, stages]."""
        first = plans[0]
        one_copy = schedule_kind(first.schedule).one_copy
        rows = self.by_shape[first.num_stages, first.virtual_stages, ends_of(first), one_copy]
        begins = [block.first for block, _ in rows.members()]
        chosen = []
        for number in numbers:
            place = bisect_right(begins, number) - 1
            block = rows.blocks[place]
            chosen.append(rows.begins[place] + (number - block.first) % block.size)
        kept = np.zeros(len(rows.states), dtype=bool)
        kept[chosen] = True
        ticks, _ = self._ticks(rows, kept)
        return stages_of_rows(ticks, (np.cumsum(kept) - 1)[chosen], rows.place)

    def steps(
        self,
        lists_of: Callable[[ScheduleKey], tuple[Sequence[Moments], Tape]],
        kernel: Kernel = "auto",
    ) -> Floats:
        """The exact step time of every row in seconds; infinite for those that do not fit.

        Nothing is left out by bounds. `lists_of`: what follows from the lists of a schedule. As
        `parplan.planners.search.exhaustive` has them, without a `Plan` for each.
        """
        found = np.full(self.space.num_rows, IMPOSSIBLE)
        for rows in self.by_shape.values():
            for tape, ticks, places in self._sweeps(rows, lists_of):
                found[places] = fast_many(tape, ticks, kernel=kernel)
        return found

    def _sweeps(
        self, rows: Rows, lists_of: Callable[[ScheduleKey], tuple[Sequence[Moments], Tape]]
    ) -> Iterator[tuple[Tape, StageTicks, Ints]]:
        """The plans with equal lists that fit: their tape, costs, and places in the space."""
        kinds = dict.fromkeys(kind for block in rows.blocks for kind in block.kinds)
        possible = {kind: self._least_bytes(rows, kind) <= self.limit for kind in kinds}
        kept = np.logical_or.reduce(list(possible.values()))
        if not kept.any():
            return
        ticks, _ = self._ticks(rows, kept)
        row_of = np.cumsum(kept) - 1
        for key, (kind, chosen, places) in _by_lists(rows).items():
            may = possible[kind][chosen]
            if not may.any():
                continue
            moments, tape = lists_of(key)
            at, to = chosen[may], places[may]
            memory = rows.activations[at], rows.states[at]
            fits = rows_fit(*memory, rows.place, moments, self.limit)
            if fits.any():
                yield tape, stages_of_rows(ticks, row_of[at[fits]], rows.place), to[fits]

    def schedule_keys(self) -> set[ScheduleKey]:
        """What tells the lists of all plans."""
        blocks = (block for rows in self.by_shape.values() for block in rows.blocks)
        return {block.schedule_key(number) for block in blocks for number, _ in block.numbers}

    def rule_out(
        self, key: tuple[str, int, int, int], moments: Sequence[Moments], bounds: Floats
    ) -> None:
        """Make the `bounds` infinite of all plans with this `schedule_key` that do not fit.

        `moments`: those of their lists.
        """
        name, ranks, virtual, count = key
        for shape, rows in self.by_shape.items():
            if shape[:2] != (ranks, virtual):
                continue
            for block, own in rows.members():
                number = block.ordering_of(name)
                if number is not None and block.group.num_micro_batches == count:
                    fits = rows_fit(
                        rows.activations[own], rows.states[own], rows.place, moments, self.limit
                    )
                    bounds[block.places(number)][~fits] = IMPOSSIBLE

    def _with_memory(self, blocks: list[RowBlock]) -> Rows:
        activations, states = Column(), Column()
        for block in blocks:
            a, b, c = block.inner
            activations.add(
                block,
                OUTER,
                [self.parts.activations(block.plan(i, 0, k)) for i in range(a) for k in range(c)],
            )
            states.add(block, ZERO, [self.parts.states(block.plan(0, j)) for j in range(b)])
        begins = [0, *np.cumsum([block.size for block in blocks])[:-1].tolist()]
        place = self.parts.kinds(blocks[0].plan()).place
        return Rows(blocks, begins, place, activations.rows(), states.rows())

    def uneven_bounds(self) -> Floats:
        """Lower bounds of the step of each row, however its blocks are divided, in seconds.

        The slowest rank has at least its share of all work, however few blocks are recomputed.
        Infinite where the ranks cannot hold all parameters. Rows without a pipeline have nothing to
        divide.
        """
        own = self.space.constraints
        found = np.full(self.space.num_rows, IMPOSSIBLE)
        for (ranks, *_), rows in self.by_shape.items():
            state = rows.states[:, :, :3].sum(axis=2)[:, rows.place].sum(axis=1) / ranks
            holds = state * (1 - 1e-9) <= self.limit
            for block, members in rows.members():
                work = np.array(self._work_of_all(block, least=own.uneven_recomputation))
                seconds = block.group.num_micro_batches * work[block.patterns[OUTER]] / ranks
                bound = np.where(holds[members], seconds * (1 - 1e-9), IMPOSSIBLE)
                for number, _ in block.numbers:
                    found[block.places(number)] = bound
        if own.uneven_recomputation:
            return found
        sizes = [(group.size, group.layout.num_stages > 1) for group in self.space.groups]
        pipeline = np.concatenate([np.full(size, several) for size, several in sizes])
        return np.where(pipeline, found, self.bounds())

    def _work_of_all(self, block: RowBlock, *, least: bool) -> list[float]:
        """Seconds of all stages for one micro-batch, by recomputation and sequence parallelism.

        `least`: without recomputation.
        """
        a, _, c = block.inner
        found = []
        for i, k in np.ndindex(a, c):
            plan = block.plan(i, 0, k)
            plan = replace(plan, recomputation="none") if least else plan
            found.append(float(self.parts.layers(plan)[self.parts.kinds(plan).place, :3].sum()))
        return found

    def memory_bounds(self) -> Floats:
        """Bytes that the fullest rank of each plan needs at least."""
        found = np.full(self.space.num_rows, IMPOSSIBLE)
        for rows in self.by_shape.values():
            for kind in dict.fromkeys(kind for block in rows.blocks for kind in block.kinds):
                _write(rows, kind, self._least_bytes(rows, kind), found)
        return found

    def _least_bytes(self, rows: Rows, kind: ScheduleKind) -> Floats:
        return least_bytes(kind, rows.num_ranks, rows.place, rows.activations, rows.states)

    def _ticks(self, rows: Rows, kept: Bools) -> tuple[StageTicks, npt.NDArray[np.int64]]:
        """The costs of the rows that are kept, by kinds of stages; micro-batches of all rows.

        As `parplan.sim.cost_model.stage_costs.stage_costs` has them for one plan.
        """
        layers, work, zero, others = Column(), Column(), Column(), Column()
        for block, own in rows.members():
            needed = np.asarray(kept[own].reshape(block.inner).any(axis=1))
            layers.add(block, OUTER, self._layers(block, needed))
            plans = [block.plan(0, j) for j in range(block.inner[1])]
            work.add(block, ZERO, [self.parts.parameters(plan) for plan in plans])
            zero.add(block, ZERO, [np.array((float(plan.zero_stage),)) for plan in plans])
            first = plans[0]
            counted = first.num_micro_batches, first.overlap_gradient_reduction
            row = np.array((*self.parts.message(first), *counted), dtype=np.float64)
            others.add(block, ONE, [row])
        send_s, latency_s, counts, overlaps = others.rows().T
        around = SurroundingsOfRows(
            send_s=send_s[kept],
            latency_s=latency_s[kept],
            zero_stage=zero.rows()[kept, 0],
            overlaps_reduction=overlaps[kept],
            message_s=host_message_s(self.space.workload, rows.num_ranks),
            reduces_once=reduces_once(self.space.workload, rows.blocks[0].plan()),
            sharding_waits=self.space.workload.software.sharded_in_lists,
            slowed_share=slowed_share(self.space.cluster, self.space.workload.software),
            post_validation=self.space.workload.software.post_validation,
        )
        costs = costs_of_rows(layers.rows()[kept], work.rows()[kept], around)
        return ticks_of_seconds(**costs), counts.astype(np.int64)

    def _layers(self, block: RowBlock, needed: Bools) -> list[Floats]:
        """`LayerWork` by recomputation and sequence parallelism, zeros where it is not needed."""
        kinds = len(self.parts.kinds(block.plan()).stages)
        nothing = np.zeros((kinds, len(LayerWork._fields)))
        return [
            self.parts.layers(block.plan(i, 0, k)) if needed[i, k] else nothing
            for i, k in np.ndindex(*needed.shape)
        ]


def _by_lists(rows: Rows) -> dict[ScheduleKey, tuple[ScheduleKind, Ints, Ints]]:
    """Group by instruction lists: shape of the schedule, rows, and their places in the space."""
    found: dict[ScheduleKey, tuple[ScheduleKind, list[Ints], list[Ints]]] = {}
    for block, own in rows.members():
        for number, kind in block.numbers:
            name = block.group.orderings[number].schedule
            key = name, rows.num_ranks, block.virtual, block.group.num_micro_batches
            _, chosen, places = found.setdefault(key, (kind, [], []))
            chosen.append(np.arange(own.start, own.stop))
            to = block.places(number)
            places.append(np.arange(to.start, to.stop))
    return {
        key: (kind, np.concatenate(chosen), np.concatenate(places))
        for key, (kind, chosen, places) in found.items()
    }


def _write(rows: Rows, kind: ScheduleKind, bound: Floats, found: Floats) -> None:
    """The bounds of rows under the plans whose schedules look like `kind`."""
    for block, own in rows.members():
        for number, looks in block.numbers:
            if looks == kind:
                found[block.places(number)] = bound[own]
