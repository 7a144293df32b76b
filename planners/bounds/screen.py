"""Quick lower bounds of many plans, that leave few for the tight ones.

Of a plan with any number of recomputed blocks per stage: the fewest blocks with which the layers
fit beside the parameters, and the slowest rank's work with these, without gathers and reductions.
Never above what `parplan.planners.bounds.tightened` finds. Plans whose stages are alike are taken
together, and what differs is the bytes and seconds of a layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from parplan.planners.bounds.depths import StackedMoments
from parplan.planners.bounds.layer_tables import LayerTables, PlanOf, StageKinds
from parplan.planners.bounds.schedule_bounds import stages_by_rank
from parplan.planners.bounds.space_rows import RowBlock, blocks_of
from parplan.planners.costs.cost_tables import Key
from parplan.planners.spaces.layouts import LayoutGroup
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_costs import host_message_s
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.peak_of_rows import state_bytes
from parplan.sim.schedules import ScheduleKind, schedule_kind
from parplan.sim.schedules.placement import Placement, rank_of_stage
from parplan.sim.ticks import Ints

SLACK = 1 - 1e-6
"""What sums in another order, and rounding every action to picoseconds, may add."""

IMPOSSIBLE = float("inf")


class Screen(NamedTuple):
    """Lower bounds of the plans of a space with variants."""

    tables: LayerTables
    limit: float
    """Bytes of a device that a plan may use."""

    def bounds(self, space: Space, ceiling: float) -> Floats:
        """Seconds that a step of each row takes at least; infinite for those that cannot fit.

        0 where plans have more choices than how many blocks they recompute. Those above `ceiling`
        are rougher.
        """
        found = np.zeros(space.num_rows)
        by_shape: dict[Key, list[RowBlock]] = {}
        for block in blocks_of(space):
            shape = block.group.layout.num_stages, block.virtual, block.ends, block.one_copy
            by_shape.setdefault(shape, []).append(block)
        for blocks in by_shape.values():
            for again in (False, True):
                own = _Shape(self, blocks, again=again)
                if own.is_known:
                    own.write(ceiling, found)
        return found


def products(
    group: LayoutGroup, rows: Ints, wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[LayoutGroup, Ints]]:
    """Parts of a group that hold all rows that are wanted and few others, with their rows.

    One for the orderings of each shape: every combination of the values that wanted rows have.
    """
    own, place = wanted.reshape(group.radices), rows.reshape(group.radices)
    shapes = [(*o[1:], schedule_kind(o.schedule).one_copy) for o in group.orderings]
    for shape in dict.fromkeys(shapes):
        of_shape = np.array([other == shape for other in shapes])
        mask = own & of_shape[:, None, None, None]
        axes = [
            np.flatnonzero(mask.any(axis=tuple(a for a in range(4) if a != axis))).tolist()
            for axis in range(4)
        ]
        if all(axes):
            names = "orderings", "recomputations", "zero_stages", "sequence_parallel"
            chosen: dict[str, Any] = {
                name: tuple(values[i] for i in axis)
                for name, values, axis in zip(names, group.choices, axes, strict=True)
            }
            yield group._replace(**chosen), place[np.ix_(*axes)].reshape(-1)


_Look = tuple[Placement, bool]
"""What tells the bounds of schedules of one shape: where stages are, and whether ranks stagger."""


class _Rows(NamedTuple):
    """Rows of plans of one shape that recompute something, or nothing."""

    places: Ints
    """Within their block."""
    outer: Ints
    """Which plan of the shape tells their layers."""
    zero: Ints
    """Which state of the shape is theirs."""
    blocks: Ints
    """Which block of the shape they are of."""


def _rows_of(block: RowBlock, chosen: list[int], begin: tuple[int, int, int]) -> _Rows:
    """The rows of a block with some of its recomputations.

    begin: plans, states and blocks of the shape before it.
    """
    (_, b, c), again = block.inner, np.array(chosen)
    place = (again[:, None, None] * b + np.arange(b)[:, None]) * c + np.arange(c)
    outer = begin[0] + np.arange(len(again))[:, None, None] * c + np.arange(c)
    zero = begin[1] + np.arange(b)[:, None]
    columns = (np.broadcast_to(x, place.shape).ravel() for x in (place, outer, zero, begin[2]))
    return _Rows(*columns)


class _Shape:
    """Plans with as many ranks and chunks, that recompute something or nothing."""

    def __init__(self, screen: Screen, blocks: Sequence[RowBlock], *, again: bool) -> None:
        self._screen = screen
        self._tables = screen.tables
        self._blocks: list[RowBlock] = []
        self._plans: list[PlanOf] = []
        states, rows = list[Floats](), list[_Rows]()
        for block in blocks:
            names, (_, b, c) = block.group.recomputations, block.inner
            chosen = [i for i, name in enumerate(names) if (name != "none") == again]
            if not chosen:
                continue
            rows.append(_rows_of(block, chosen, (len(self._plans), len(states), len(self._blocks))))
            self._plans += [PlanOf(block, i, k) for i in chosen for k in range(c)]
            states += [self._tables.parts.states(block.plan(0, j)) for j in range(b)]
            self._blocks.append(block)
        if not rows:
            return
        self._ends = np.cumsum([len(own.places) for own in rows]).tolist()
        self._rows = _Rows(*(np.concatenate(own) for own in zip(*rows, strict=True)))
        self._states = np.array(states)
        self._state_bytes: dict[tuple[int, ...], Floats] = {}
        self._seconds: dict[int, Floats] = {}
        messages = [sum(self._tables.parts.message(block.plan())) for block in self._blocks]
        counts = [block.group.num_micro_batches for block in self._blocks]
        self._around = np.array([messages, counts], dtype=np.float64).T
        stages = self._tables.stages(self._plans[0].plan, again=again)
        if stages is not None:
            self._stages = stages
            bytes_ = np.array([self._tables.bytes_of(plan) for plan in self._plans])
            self._activations = _activations(bytes_, stages)
            self.is_known = True

    is_known = False
    """Whether anything can be said of its plans."""

    def write(self, ceiling: float, found: Floats) -> None:
        """Put the lower bounds of the rows into those of all.

        By what every schedule has of one micro-batch, and below `ceiling` by the schedule.
        """
        every = np.arange(len(self._rows.places))
        by_look: dict[_Look, Floats] = {}
        below: dict[tuple[_Look, Key], list[tuple[Ints, Ints]]] = {}
        like: dict[tuple[_Look, Key], tuple[ScheduleKind, StackedMoments]] = {}
        begin = 0
        for block, end in zip(self._blocks, self._ends, strict=True):
            for number, kind in block.numbers:
                key = block.schedule_key(number)
                look = kind.placement, self._is_staggered(kind)
                if look not in by_look:
                    _, of_one = self._tables.stacked_of_one(key, self._stages.place)
                    by_look[look] = self._bound(kind, of_one, every)
                bound = by_look[look][begin:end]
                to = block.places(number).start + self._rows.places[begin:end]
                found[to] = bound
                chosen = np.flatnonzero(bound < ceiling)
                if len(chosen):
                    alike, moments = self._tables.stacked(key, self._stages.place)
                    like[look, alike] = kind, moments
                    below.setdefault((look, alike), []).append((begin + chosen, to[chosen]))
            begin = end
        for name, several in below.items():
            chosen, to = (np.concatenate(own) for own in zip(*several, strict=True))
            found[to] = np.maximum(found[to], self._bound(*like[name], chosen))

    def _bound(self, kind: ScheduleKind, moments: StackedMoments, rows: Ints) -> Floats:
        """Lower bounds of rows whose ranks have these moments, in seconds."""
        fits = self._fits(moments, rows)
        found = np.full(len(rows), IMPOSSIBLE)
        may = np.flatnonzero(fits.any(axis=1))
        if len(may):
            around = self._around[self._rows.blocks[rows[may]]]
            around[:, 1] //= 1 if kind.one_copy else 2
            layers = self._layers(self._rows.outer[rows[may]], fits[may].argmax(axis=1))
            ranks = self._blocks[0].group.layout.num_stages
            message_s = host_message_s(self._tables.parts.workload, ranks)
            begun, work = _seconds(kind, ranks, self._stages.place, layers, around, message_s)
            least = (work if self._is_staggered(kind) else begun + work).max(axis=1)
            found[may] = least * SLACK
        return found

    def _is_staggered(self, kind: ScheduleKind) -> bool:
        """Whether ranks begin steps at times of their own: what is before does not count."""
        validates_later = self._tables.parts.workload.software.post_validation
        return validates_later and kind.splits_backward and kind.one_copy

    def _fits(self, moments: StackedMoments, rows: Ints) -> npt.NDArray[np.bool_]:
        """Whether each row may fit with each depth, shape [rows, depths]."""
        used, of_used = np.unique(self._rows.outer[rows], return_inverse=True)
        zero, activations = self._rows.zero[rows], self._activations[used]
        fits = np.ones((len(rows), activations.shape[1]), dtype=bool)
        for kinds, counts in moments.by_kinds:
            held = activations[:, :, kinds]
            weights = np.concatenate([held[..., column] for column in (0, 2, 1)], axis=2)
            most = (weights @ counts.T).max(axis=2)
            own = self._state_bytes.get(tuple(kinds))
            if own is None:
                own = self._state_bytes[tuple(kinds)] = state_bytes(self._states, kinds)
            fits &= (most[of_used] + own[zero][:, None]) * SLACK <= self._screen.limit
        return fits

    def _layers(self, outer: Ints, depth: Ints) -> Floats:
        """Seconds of forward, input gradient and weight gradient, shape [rows, kinds, 3]."""
        stages = self._stages
        used, of_used = np.unique(outer, return_inverse=True)
        for number in used.tolist():
            if number not in self._seconds:
                self._seconds[number] = self._tables.seconds_of(self._plans[number])
        seconds = np.array([self._seconds[number] for number in used.tolist()])[of_used]
        whole = stages.again[0] + stages.plain[0]
        found: Floats = np.einsum("ke,rec->rkc", stages.ends, seconds[:, :2, :3])
        found += np.einsum("kl,rlc->rkc", whole, seconds[:, 2:, :3])
        found[:, :, 1] += np.einsum("rkl,rl->rk", stages.again[depth], seconds[:, 2:, 3])
        return found


def _activations(bytes_: Floats, stages: StageKinds) -> Floats:
    """`Activations` of each kind of stage, shape [plans, depths, kinds, 3].

    bytes_: of every plan, as `Screen.bytes_of` has them.
    """
    ends, blocks = bytes_[:, :2], bytes_[:, 2:]
    half = blocks.shape[1] // 2
    plain, again = blocks[:, :half], blocks[:, half:]
    found = np.empty((len(bytes_), *stages.again.shape[:2], 3))
    for column, source in ((0, 0), (2, 1)):
        found[..., column] = (
            np.einsum("ke,pe->pk", stages.ends, ends[..., source])[:, None]
            + np.einsum("dkl,pl->pdk", stages.plain, plain[..., source])
            + np.einsum("dkl,pl->pdk", stages.again, again[..., source])
        )
    running = np.zeros(found.shape[:3])
    for there, one in ((stages.ends[None], ends), (stages.plain, plain), (stages.again, again)):
        for number in range(one.shape[1]):
            own = (there[..., number] > 0) * one[:, number, 2][:, None, None]
            np.maximum(running, own, out=running)
    found[..., 1] = running
    return found


def _seconds(
    kind: ScheduleKind,
    num_ranks: int,
    place: Ints,
    layers: Floats,
    around: Floats,
    message_s: float,
) -> tuple[Floats, Floats]:
    """When each rank can begin, and how long it works, shape [rows, ranks].

    As `schedule_bounds.step_bounds_s` without gathers and reductions. layers: [rows, kinds, 3].
    around: seconds of a message, and micro-batches, [rows, 2].
    """
    own = stages_by_rank(kind, num_ranks, len(place))
    rank = np.array([rank_of_stage(kind.placement, num_ranks, s) for s in range(len(place))])
    forward = layers[:, :, 0][:, place] + message_s
    each = layers.sum(axis=2)[:, place] + 2 * message_s
    hops = (rank[1:] != rank[:-1]) * around[:, :1]
    begin = np.zeros_like(forward)
    np.cumsum(forward[:, :-1] + hops, axis=1, out=begin[:, 1:])
    work = sum(each[:, own[:, turn]] for turn in range(own.shape[1]))
    return begin[:, own.min(axis=1)], around[:, 1:] * work
