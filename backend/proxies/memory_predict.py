"""Prediction of a plan's peak memory from its proxy models. Imports no torch.

A rank's list is followed: every action changes what is held and reaches a peak above what was held
at its start, both as measured in the proxies. What is held at the start of the step, and what
changes, are lines over the blocks of a stage. So are the peaks of forwards and of split backwards,
which hold what they recompute of all blocks; a whole backward reaches its peak at its begin if it
frees more with every block than it makes, and else at its end.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from parplan.backend.proxies.predict import OTHER_TURNS
from parplan.backend.proxies.proxy import Family, ProxyModel, proxies_of
from parplan.backend.proxies.proxy_costs import CostPart, turns
from parplan.sim.memory.held_bytes import HeldBytes, highest_bytes
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import Action, RankActions, rank_of_stages
from parplan.sim.schedules import make_schedule

BEFORE = "before"
"""Names what lies between the parts of a step."""


BEFORES = ("", "F", "B")


def places_of(plan: Plan, actions: RankActions) -> dict[Action, str]:
    """The turn of every action of a rank.

    Of a pipeline whose parameters are sharded (ZeRO-3) with the kind of the stage's action before
    it, since a forward frees what it gathers and a backward keeps it.
    """
    found = turns(actions)
    if plan.num_stages == 1 or plan.replicas == 1 or not plan.distribute_low_prec_param:
        return found
    before: dict[int, str] = {}
    for action in actions:
        found[action] = f"{found[action]} {before.get(action.stage, '')}".strip()
        before[action.stage] = "F" if action.op == "F" else "B"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyMemory:
    """One proxy; the means over the processes of a pipeline rank or stage."""

    start: Mapping[int, float]
    """By pipeline rank: bytes when the first action begins."""
    received: Mapping[int, float]
    """By pipeline rank: bytes of what is received for one micro-batch, held for the whole step."""
    parts: Mapping[CostPart, HeldBytes]
    """Actions with what precedes them, `reduce`, and the `optimizer` by pipeline rank."""


def predict_peaks(
    plan: Plan, num_blocks: int, measured: Mapping[ProxyModel, ProxyMemory]
) -> tuple[float, ...]:
    """Peak bytes of every pipeline rank of `plan` for a model of so many blocks.

    measured: the proxies that `proxies_of` names, at least. Raises `KeyError` without.
    """
    return tuple(_Rank(plan, num_blocks, measured, r).peak() for r in range(plan.num_stages))


class _Rank:
    def __init__(
        self, plan: Plan, num_blocks: int, measured: Mapping[ProxyModel, ProxyMemory], rank: int
    ) -> None:
        self.plan, self.measured, self.rank = plan, measured, rank
        self.proxies = proxies_of(plan, num_blocks)
        self.blocks = plan.layers_of_stages(num_blocks)
        schedule = make_schedule(
            plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
        )
        self.actions = schedule[rank]
        self.own = [stage for stage, on in rank_of_stages(schedule).items() if on == rank]
        self.family = self._any()

    def peak(self) -> float:
        """The largest of all parts, one after the other."""
        return highest_bytes(self._parts(), self._start())

    def _parts(self) -> Iterator[HeldBytes]:
        turn, places = turns(self.actions), places_of(self.plan, self.actions)
        for action in self.actions:
            yield self._part(CostPart(action.op, action.stage, places[action]))
            if action.op in "BW" and turn[action] in ("last", "only"):
                yield self._part(CostPart("reduce", action.stage))
        yield self._part(CostPart("optimizer", self.rank))

    def _start(self) -> float:
        """Bytes held when the first action begins."""
        values = [self.measured[proxy].start[self.rank] for proxy in self.family]
        mean_blocks = statistics.mean(self.blocks[stage] for stage in self.own)
        more = self.plan.num_micro_batches - self.family.deep.plan.num_micro_batches
        received = self.measured[self.family.deep].received[self.rank]
        return self.family.at(mean_blocks, (values[0], values[1])) + more * received

    def _part(self, part: CostPart) -> HeldBytes:
        if part.name == "optimizer":
            blocks: float = statistics.mean(self.blocks[stage] for stage in self.own)
        else:
            blocks = self.blocks[part.place]
        split = part.name in ("I", "W") and self.proxies.split is not None
        family = self.proxies.split if split else self.family
        assert family is not None
        return self._recomputed(family, part, blocks)

    def _recomputed(self, family: Family, part: CostPart, blocks: float) -> HeldBytes:
        whole = self._line(family, part, blocks)
        if self.proxies.kept is None or part.name == "optimizer":
            return whole
        # The first blocks are recomputed, the others not.
        plain = self.proxies.kept.whole or self.proxies.kept.split
        assert plain is not None
        again = min(blocks, self.plan.recomputed_of(part.place, round(blocks)))
        without, recomputed, same = (
            self._line(plain, part, blocks),
            self._line(family, part, again),
            self._line(plain, part, again),
        )
        change = without.change + recomputed.change - same.change
        return HeldBytes(
            change=change, peak=max(without.peak + recomputed.peak - same.peak, change)
        )

    def _line(self, family: Family, part: CostPart, blocks: float) -> HeldBytes:
        shallow, deep = (self._held(proxy, part) for proxy in family)
        change = family.at(blocks, (shallow.change, deep.change))
        if part.name == "B":
            grows = max(0.0, (deep.change - shallow.change)) / (
                family.deep.depth - family.shallow.depth
            )
            peak = deep.peak + grows * (blocks - family.deep.depth)
        else:
            peak = family.at(blocks, (shallow.peak, deep.peak))
        return HeldBytes(change=change, peak=max(peak, change, 0.0))

    def _held(self, proxy: ProxyModel, part: CostPart) -> HeldBytes:
        parts = self.measured[proxy].parts
        if part in parts:
            return parts[part]
        if not part.turn:
            return HeldBytes(change=0.0, peak=0.0)
        turn, _, before = part.turn.partition(" ")
        others = (
            part._replace(turn=f"{its_turn} {its_before}".strip())
            for its_before in dict.fromkeys((before, *BEFORES))
            for its_turn in (turn, *OTHER_TURNS[turn])
        )
        return next(parts[other] for other in others if other in parts)

    def _any(self) -> Family:
        family = self.proxies.whole or self.proxies.split
        assert family is not None
        return family


def proxy_memory(
    plan: Plan,
    segments: Sequence[Sequence[tuple[str, int, int]]],
    starts: Sequence[float],
    received: Sequence[float],
) -> ProxyMemory:
    """The memory of one step of a proxy, from the samples of all processes in order.

    segments: (name, change, peak) as `parplan.backend.proxies.memory_runs` has them. starts: bytes
    at the start of the step. received: of one micro-batch.
    """
    width = plan.replicas * plan.tensor_parallel
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    turn = {str(a): (a, t) for own in schedule for a, t in places_of(plan, own).items()}
    start: dict[int, list[float]] = {}
    parts: dict[CostPart, list[HeldBytes]] = {}
    for process, (own, base) in enumerate(zip(segments, starts, strict=True)):
        rank, change, peak, begun = process // width, 0.0, 0.0, False
        for name, more, top in own:
            peak = max(peak, change + top)
            change += more
            if name == BEFORE:
                if not begun:
                    start.setdefault(rank, []).append(base + change)
                    begun, change, peak = True, 0.0, 0.0
                continue
            part = _part_of(name, rank, turn)
            if part is None:
                continue
            parts.setdefault(part, []).append(HeldBytes(change=change, peak=peak))
            change, peak = 0.0, 0.0
    return ProxyMemory(
        start={rank: statistics.mean(values) for rank, values in start.items()},
        received={r: statistics.mean(received[r * width : (r + 1) * width]) for r in start},
        parts={part: _mean(held) for part, held in parts.items()},
    )


def _part_of(name: str, rank: int, turn: Mapping[str, tuple[object, str]]) -> CostPart | None:
    word, _, stage = name.partition(" ")
    if word == "optimizer":
        return CostPart(word, rank)
    if stage:
        return CostPart(word, int(stage)) if word == "reduce" else None
    action, its_turn = turn[name]
    return CostPart(action.op, action.stage, its_turn)  # type: ignore[attr-defined]


def _mean(held: Sequence[HeldBytes]) -> HeldBytes:
    return HeldBytes(
        change=statistics.mean(h.change for h in held), peak=statistics.mean(h.peak for h in held)
    )
