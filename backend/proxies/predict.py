"""Prediction of a plan's step from the costs of its proxy models. Imports no torch.

Steps vary, and where ranks wait for each other the slowest one counts, so that a step is longer
than one of median actions. It is simulated many times, each action as long as its median times one
of the ratios that were measured; the step of median length is the prediction.
"""

import functools
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from parplan.backend.proxies.proxy import Family, ProxyModel, proxies_of
from parplan.backend.proxies.proxy_costs import CostPart, ProxyCosts, turns
from parplan.sim.cost_model.stage_formula import (
    LayerWork,
    ParameterWork,
    Surroundings,
    costs_of_stage,
)
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, to_ps
from parplan.sim.plan import Plan
from parplan.sim.programs.dependencies import producers
from parplan.sim.programs.instructions import Action, Schedule, rank_of_stages
from parplan.sim.run import Event, Run
from parplan.sim.schedules import make_schedule

OTHER_TURNS = {
    "only": ("last", "first", "middle"),
    "first": ("only", "middle", "last"),
    "middle": ("last", "first", "only"),
    "last": ("middle", "only", "first"),
}
"""Where a proxy has no action of a turn, that of the nearest one counts."""


Values = Callable[[ProxyCosts], Mapping[CostPart, float]]


def _durations(costs: ProxyCosts) -> Mapping[CostPart, float]:
    return costs.seconds


def _waits(stream: str, costs: ProxyCosts) -> Mapping[CostPart, float]:
    return {part: waits.get(stream, 0.0) for part, waits in costs.exposed.items()}


def _line(
    measured: Mapping[ProxyModel, ProxyCosts],
    family: Family,
    part: CostPart,
    blocks: float,
    of: Values,
) -> float:
    """Seconds of `part` at a stage of so many blocks."""
    shallow, deep = (_value(of(measured[proxy]), part) for proxy in family)
    return family.seconds_at(blocks, (shallow, deep))


def _value(values: Mapping[CostPart, float], part: CostPart) -> float:
    if part in values:
        return values[part]
    if not values or not part.turn:  # Nothing is waited for, gathered or reduced.
        return 0.0
    others = (part._replace(turn=turn) for turn in OTHER_TURNS[part.turn])
    return next(values[other] for other in others if other in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCost:
    """Seconds of one action with what surrounds it, in this order."""

    gap_s: float
    gather_s: float
    compute_s: float
    reduce_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.gap_s + self.gather_s + self.compute_s + self.reduce_s


DRAWS, SEED = 101, 0

STREAMS = ("data-parallel", "tensor-parallel")
"""Whose collectives may be waited for within an action."""


def predict_step(plan: Plan, num_blocks: int, measured: Mapping[ProxyModel, ProxyCosts]) -> Run:
    """The simulated step of `plan` for a model of so many blocks: of `DRAWS` the median one.

    measured: the costs of the proxies that `proxies_of` names, at least. Raises `KeyError` without.
    """
    return _Prediction(plan, num_blocks, measured).run()


def predict_exposed(
    plan: Plan, num_blocks: int, measured: Mapping[ProxyModel, ProxyCosts]
) -> dict[str, float]:
    """Seconds of the step that are spent waiting for collectives.

    By stream within the actions, and within the optimizer; mean over the pipeline ranks.
    """
    return _Prediction(plan, num_blocks, measured).exposed()


class _Prediction:
    def __init__(
        self, plan: Plan, num_blocks: int, measured: Mapping[ProxyModel, ProxyCosts]
    ) -> None:
        self.plan, self.measured = plan, measured
        self.proxies = proxies_of(plan, num_blocks)
        self._noise: dict[tuple[str, int], tuple[float, ...]] = {}
        self.blocks = plan.layers_of_stages(num_blocks)
        self.schedule: Schedule = make_schedule(
            plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
        )
        self.rank_of = rank_of_stages(self.schedule)
        self.crossing = {
            user
            for user, maker in producers(self.schedule).items()
            if self.rank_of[user.stage] != self.rank_of[maker.stage]
        }

    def run(self) -> Run:
        costs = [self._actions(rank) for rank in range(len(self.schedule))]
        rng = random.Random(SEED)
        drawn = [self._draw(costs, rng) for _ in range(DRAWS)]
        simulated, drawn_costs = sorted(drawn, key=lambda pair: pair[0].step_s)[DRAWS // 2]
        by_name = {
            str(action): cost
            for actions, own in zip(self.schedule, drawn_costs, strict=True)
            for action, cost in zip(actions, own, strict=True)
        }
        events = [part for event in simulated.events for part in _parts(event, by_name)]
        return Run(step_s=simulated.step_s, events=tuple(events))

    def _draw(
        self, costs: Sequence[Sequence[ActionCost]], rng: random.Random
    ) -> tuple[Run, list[list[ActionCost]]]:
        """One step, and what its actions cost."""
        drawn = [
            [
                replace(
                    cost,
                    compute_s=cost.compute_s * self._ratio(action.op, action.stage, rng),
                    gather_s=cost.gather_s * self._ratio("gather", action.stage, rng),
                    reduce_s=cost.reduce_s * self._ratio("reduce", action.stage, rng),
                )
                for action, cost in zip(actions, own, strict=True)
            ]
            for actions, own in zip(self.schedule, costs, strict=True)
        ]
        durations = [to_ps(max(cost.total_s, 0.0)) for own in drawn for cost in own]
        stages = self._stage_costs(rng)
        return simulate(self.schedule, stages, durations_ps=durations), drawn

    def _ratio(self, name: str, place: int, rng: random.Random) -> float:
        """Ratio of a part's time in one step of the deep proxy model to its median."""
        key = name, place
        if key not in self._noise:
            split = name in ("I", "W") or self.proxies.whole is None
            family = self.proxies.split if split else self.proxies.whole
            assert family is not None
            self._noise[key] = self.measured[family.deep].noise.get(key, (1.0,))
        return rng.choice(self._noise[key])

    def exposed(self) -> dict[str, float]:
        found = dict.fromkeys((*STREAMS, "optimizer"), 0.0)
        ranks = len(self.schedule)
        for rank, actions in enumerate(self.schedule):
            turn = turns(actions)
            parts = [CostPart(a.op, a.stage, turn[a]) for a in actions] + [
                CostPart("optimizer", rank)
            ]
            for part in parts:
                for stream in STREAMS:
                    seconds = self._seconds(part, functools.partial(_waits, stream))
                    key = "optimizer" if part.name == "optimizer" else stream
                    found[key] += max(0.0, seconds) / ranks
        return found

    def _actions(self, rank: int) -> list[ActionCost]:
        """The costs of a rank's actions, in order."""
        actions = self.schedule[rank]
        turn = turns(actions)
        found = []
        for place, action in enumerate(actions):
            op, stage = action.op, action.stage
            makes_gradient = op in "BW"
            ends = makes_gradient and turn[action] in ("last", "only")
            begins = op == "F" and turn[action] in ("first", "only")
            found.append(
                ActionCost(
                    gap_s=self._gap(action, first=place == 0),
                    gather_s=self._time_s(CostPart("gather", stage)) if begins else 0.0,
                    compute_s=self._time_s(CostPart(op, stage, turn[action])),
                    reduce_s=self._time_s(CostPart("reduce", stage)) if ends else 0.0,
                )
            )
        return found

    def _gap(self, action: Action, *, first: bool) -> float:
        if first and action not in self.crossing:
            return self._mean("begin_s")
        return self._mean("message_gap_s" if action in self.crossing else "free_gap_s")

    def _stage_costs(self, rng: random.Random) -> list[StageCosts]:
        latency_s = max(0.0, self._mean("arrival_s") - self._mean("message_gap_s"))
        sync_s, leads = self._mean("sync_s"), set[int]()
        costs = []
        for stage in range(self.plan.total_stages):
            rank = self.rank_of[stage]
            optimizer_s = 0.0
            if rank not in leads:
                ratio = self._ratio("optimizer", rank, rng)
                optimizer_s = self._time_s(CostPart("optimizer", rank)) * ratio
            leads.add(rank)
            # What actions take is given apart: that of every turn differs.
            own = costs_of_stage(
                LayerWork(0.0, 0.0, 0.0, num_layers=1),
                ParameterWork(gathered_s=0.0, reduced_s=0.0, optimizer_s=optimizer_s),
                Surroundings(latency_s=latency_s),
            )
            costs.append(replace(own, norm_sync_s=sync_s))
        return costs

    def _time_s(self, part: CostPart) -> float:
        """At least zero: a line through noisy proxies can end below it."""
        return max(0.0, self._seconds(part))

    def _seconds(self, part: CostPart, of: Values = _durations) -> float:
        """A line over the blocks of a stage, or, for the optimizer, of the stages of a rank."""
        split = part.name in ("I", "W") or self.proxies.whole is None
        family = self.proxies.split if split else self.proxies.whole
        assert family is not None
        if part.name == "optimizer":
            own = [self.blocks[stage] for stage, on in self.rank_of.items() if on == part.place]
            return _line(self.measured, family, part, statistics.mean(own), of)
        blocks = self.blocks[part.place]
        whole = _line(self.measured, family, part, blocks, of)
        if self.proxies.kept is None:
            return whole
        # The first blocks are recomputed, the others not.
        plain = self.proxies.kept.split if split else self.proxies.kept.whole
        assert plain is not None
        again = min(blocks, self.plan.recomputed_of(part.place, blocks))
        kept, recomputed, same = (
            _line(self.measured, *lines, of)
            for lines in ((plain, part, blocks), (family, part, again), (plain, part, again))
        )
        return kept + recomputed - same

    def _any(self) -> Family:
        family = self.proxies.whole or self.proxies.split
        assert family is not None
        return family

    def _mean(self, name: str) -> float:
        """The mean of a field that does not depend on depth."""
        return float(statistics.mean(getattr(self.measured[proxy], name) for proxy in self._any()))


def _parts(event: Event, costs: Mapping[str, ActionCost]) -> Sequence[Event]:
    """An action of a run as its computation, and what is gathered before and reduced after it."""
    cost = costs.get(event.name)
    if cost is None or event.stream != "compute":
        return (event,)
    stage = event.name.rstrip("0123456789")[:-1]
    start_s = event.start_s + cost.gap_s
    found = []
    if cost.gather_s:
        found.append(
            Event(event.rank, "data-parallel", f"gather {stage}", start_s, start_s + cost.gather_s)
        )
    end_s = event.end_s - cost.reduce_s
    found.append(event._replace(start_s=start_s + cost.gather_s, end_s=end_s))
    if cost.reduce_s:
        found.append(Event(event.rank, "data-parallel", f"reduce {stage}", end_s, event.end_s))
    return found
