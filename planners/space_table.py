"""All plans of a space at once, as arrays: bounds on their steps, and whether they fit.

A plan is a row; a row is made of parts (`parplan.planners.parts`) by the arithmetic that
`parplan.sim` does for one plan, so that bounds and verdicts equal those of single plans. Rows are
in the order of the space; no `Plan` is made of a row before it is asked for.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from parplan.hardware.remember import remembering
from parplan.planners.bound import stages_by_rank, step_bounds_s
from parplan.planners.parts import Floats, Parts
from parplan.planners.space import Space
from parplan.planners.space_rows import ONE, OUTER, ZERO, Block, Column, Rows, blocks_of
from parplan.sim.cost_model import LayerWork
from parplan.sim.memory import activation_peak
from parplan.sim.peaks import Moments
from parplan.sim.plan import Plan
from parplan.sim.schedules import ScheduleKind
from parplan.sim.ticks import Ints, StageTicks, ticks_of_seconds

IMPOSSIBLE = float("inf")

Bools = npt.NDArray[np.bool_]


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
            kinds = dict.fromkeys(kind for block in rows.blocks for kind in block.kinds)
            possible = {kind: self._may_fit(rows, kind) for kind in kinds}
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
                own = _stages(ticks, row_of[chosen], rows.place)
                bound[chosen] = step_bounds_s(kind, rows.num_ranks, counts[chosen], own)
                _write(rows, kind, bound, found)
        return found

    def costs(self, numbers: Sequence[int], plans: Sequence[Plan]) -> StageTicks:
        """The costs of plans with equal lists, by their numbers in the space: [plans, stages]."""
        rows = self._rows[plans[0].num_stages, plans[0].virtual_stages]
        begins = [block.first for block, _ in rows.members()]
        chosen = []
        for number in numbers:
            place = bisect_right(begins, number) - 1
            block = rows.blocks[place]
            chosen.append(rows.begins[place] + (number - block.first) % block.size)
        kept = np.zeros(len(rows.states), dtype=bool)
        kept[chosen] = True
        ticks, _ = self._ticks(rows, kept)
        return _stages(ticks, (np.cumsum(kept) - 1)[chosen], rows.place)

    def rule_out(
        self, key: tuple[str, int, int, int], moments: Sequence[Moments], bounds: Floats
    ) -> None:
        """Make the `bounds` infinite of all plans with this `schedule_key` that do not fit.

        `moments`: those of their lists.
        """
        name, ranks, virtual, count = key
        rows = self._rows[ranks, virtual]
        for block, own in rows.members():
            number = block.ordering_of(name)
            if number is not None and block.group.num_micro_batches == count:
                fits = self._fits(rows, own, moments)
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

    def _may_fit(self, rows: Rows, kind: ScheduleKind) -> Bools:
        """As `parplan.planners.bound.memory_bound_bytes` has it."""
        own = rows.place[stages_by_rank(kind, rows.num_ranks, len(rows.place))]
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

    def _ticks(self, rows: Rows, kept: Bools) -> tuple[StageTicks, npt.NDArray[np.int64]]:
        """The costs of the rows that are kept, by kinds of stages; micro-batches of all rows.

        As `parplan.sim.cost_model.stage_costs` has them for one plan.
        """
        layers, work, zero, others = Column(), Column(), Column(), Column()
        for block, own in rows.members():
            needed = np.asarray(kept[own].reshape(block.inner).any(axis=1))
            layers.add(block, OUTER, self._layers(block, needed))
            plans = [block.plan(0, j) for j in range(block.inner[1])]
            work.add(block, ZERO, [self.parts.parameters(plan) for plan in plans])
            zero.add(block, ZERO, [np.array((float(plan.zero_stage),)) for plan in plans])
            send_s, latency_s = self.parts.message(plans[0])
            overlaps = plans[0].overlap_gradient_reduction
            row = (send_s, latency_s, plans[0].num_micro_batches, overlaps)
            others.add(block, ONE, [np.array(row, dtype=np.float64)])
        whole = np.concatenate((others.rows(), zero.rows()), axis=1)
        costs = self._costs(layers.rows()[kept], work.rows()[kept], whole[kept], rows.num_ranks)
        return ticks_of_seconds(**costs), whole[:, 2].astype(np.int64)

    def _layers(self, block: Block, needed: Bools) -> list[Floats]:
        """`LayerWork` by recomputation and sequence parallelism, zeros where it is not needed."""
        kinds = len(self.parts.kinds(block.plan()).stages)
        nothing = np.zeros((kinds, len(LayerWork._fields)))
        return [
            self.parts.layers(block.plan(i, 0, k)) if needed[i, k] else nothing
            for i, k in np.ndindex(*needed.shape)
        ]

    def _costs(
        self, layers: Floats, work: Floats, others: Floats, num_ranks: int
    ) -> dict[str, Floats]:
        """The fields of `StageCosts` that are not 0, shape [rows, kinds]."""
        forward, backward, weights, count = np.moveaxis(layers, 2, 0)
        gathered, reduced, optimizer = np.moveaxis(work, 2, 0)
        send_s, latency_s, _, overlaps, zero = (others[:, i : i + 1] for i in range(5))
        framework = self.space.workload.framework
        message_s = framework.message_s if num_ranks > 1 else 0.0
        once = num_ranks > 1 and framework.reduces_pipelines_once
        each_time = np.where(zero == 3, gathered, 0.0)
        both = np.where(zero == 3, each_time + (0.0 if once else reduced), 0.0)
        return {
            "forward_s": _prefetched(forward, each_time, count) + message_s,
            "input_gradient_s": _prefetched(backward, both, count) + message_s,
            "weight_gradient_s": weights,
            "send_s": send_s,
            "latency_s": latency_s,
            "reduce_s": reduced,
            "reduce_buckets": np.where(overlaps > 0, np.maximum(1.0, count), 1.0),
            "reduce_each_micro_batch": (zero >= 2) & (not once),
            "optimizer_s": optimizer,
            "gather_s": np.where((zero == 1) | (zero == 2), gathered, 0.0),
        }


def _stages(ticks: StageTicks, rows: Ints, place: Ints) -> StageTicks:
    """Some of the rows, by stages instead of kinds of stages."""
    names = (field.name for field in fields(StageTicks))
    return StageTicks(**{name: getattr(ticks, name)[rows][:, place] for name in names})


def _write(rows: Rows, kind: ScheduleKind, bound: Floats, found: Floats) -> None:
    """The bounds of rows under the plans whose schedules look like `kind`."""
    for block, own in rows.members():
        for number, looks in block.numbers:
            if looks == kind:
                found[block.places(number)] = bound[own]


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
    return np.asarray((whole[0] + total(0)) + (whole[1] + total(1)) + total(2))
