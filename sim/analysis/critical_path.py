"""Critical path of a step and its sensitivity to each resource."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import PS_PER_S, simulate, to_ps
from parplan.sim.programs.dependencies import producers
from parplan.sim.programs.instructions import Action, Overlap, Program, computations, parse_action
from parplan.sim.run import Events, Run


class PathSegment(NamedTuple):
    """One piece of the critical path."""

    resource: str
    """compute, bandwidth (of messages), latency, reduction, norm, optimizer, or gather."""
    stage: int
    rank: int
    name: str
    start_s: float
    end_s: float


Causes = Mapping[tuple[int, str], Mapping[str, float]]
"""Seconds by cause of each stage and kind of action."""

RESOURCES: dict[str, tuple[str, ...]] = {
    "compute": (
        "forward_s",
        "input_gradient_s",
        "weight_gradient_s",
        "first_gradient_extra_s",
    ),
    "bandwidth": ("send_s",),
    "latency": ("latency_s",),
    "reduction": ("reduce_s",),
    "norm": ("norm_sync_s",),
    "optimizer": ("optimizer_s",),
    "gather": ("gather_s",),
}
"""What a step's time is spent on, and the fields of `StageCosts` that say how much."""


def critical_path(
    schedule: Program, costs: Sequence[StageCosts], run: Run
) -> tuple[PathSegment, ...]:
    """A chain of causes from the start of the step to its end, without a gap, first piece first.

    Of a staggered run, these are those of the rank whose step is the longest.

    `run` is what `simulate(schedule, costs)` returned. Of equally long chains one is taken: the
    one over the lowest rank at the end, and over the rank's own previous work before messages.
    """
    return _Walk(schedule, costs, run).path()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Sensitivity of the step time to one resource of some stages."""

    resource: str
    stage: int | None
    """None: all stages."""
    on_path_s: float
    """Seconds of the critical path."""
    gain_s: float
    """How much shorter the step is when the resource is faster by the share asked for."""
    gain_if_free_s: float
    """How much shorter when it takes no time at all."""


def sensitivities(
    schedule: Program,
    costs: Sequence[StageCosts],
    run: Run,
    faster: float = 0.1,
    causes: Causes | None = None,
) -> tuple[Sensitivity, ...]:
    """Per resource, and per stage's computation, largest gain first.

    The gains are those of the step simulated again with its times divided by 1 + `faster`, and
    with none. Resources that cost nothing are left out.

    `causes`: of the seconds of each stage and kind of action
    (`parplan.sim.analysis.time_split.action_causes`). Exchanges within actions are then resources
    of their own, and no part of the computation.
    """
    path = critical_path(schedule, costs, run)
    found = []
    within = exchanges_within(causes or {})
    kinds: list[tuple[str, int | None]] = [(name, None) for name in (*RESOURCES, *within)]
    kinds += [("compute", stage) for stage in range(len(costs)) if len(costs) > 1]
    for resource, stage in kinds:
        on_path_s = sum(
            _on_path_s(link, resource, causes or {}) for link in path if stage in (None, link.stage)
        )
        fields = RESOURCES.get(resource, ())
        if fields and all(getattr(cost, name) == 0 for cost in costs for name in fields):
            continue

        def step_s(share: float, resource: str = resource, stage: int | None = stage) -> float:
            changed = _scaled(costs, resource, stage, share, causes or {})
            return simulate(schedule, changed).step_s

        found.append(
            Sensitivity(
                resource=resource,
                stage=stage,
                on_path_s=on_path_s,
                gain_s=run.step_s - step_s(1 / (1 + faster)),
                gain_if_free_s=run.step_s - step_s(0.0),
            )
        )
    return tuple(sorted(found, key=lambda s: -s.gain_s))


EXCHANGES = (
    *("tensor exchange", "context exchange", "expert exchange"),
    *("parameter gather", "gradient reduction"),
)
"""Parts of actions that go over links."""

OF_ACTIONS = {"forward_s": "F", "input_gradient_s": "I", "weight_gradient_s": "W"}
"""Fields of `StageCosts` that have the seconds of a kind of action."""


def exchanges_within(causes: Causes) -> list[str]:
    """The exchanges that actions have within them."""
    there = {part for parts in causes.values() for part, seconds in parts.items() if seconds > 0}
    return [part for part in EXCHANGES if part in there]


def _share(parts: Mapping[str, float], resource: str) -> float:
    """The share of an action's seconds that a resource takes; unknown causes are computation."""
    whole_s = sum(parts.values())
    if not whole_s:
        return float(resource == "compute")
    if resource == "compute":
        return 1 - sum(parts.get(part, 0.0) for part in EXCHANGES) / whole_s
    return parts.get(resource, 0.0) / whole_s


def _on_path_s(link: PathSegment, resource: str, causes: Causes) -> float:
    seconds = link.end_s - link.start_s
    if link.resource != "compute":
        return seconds if link.resource == resource else 0.0
    if resource != "compute" and resource not in EXCHANGES:
        return 0.0
    return seconds * _share(causes.get((link.stage, parse_action(link.name).op), {}), resource)


def _scaled(
    costs: Sequence[StageCosts], resource: str, stage: int | None, share: float, causes: Causes
) -> list[StageCosts]:
    """The costs with the seconds of a resource, of one stage or all, times `share`."""
    return [
        _changed(cost, number, resource, share, causes) if stage in (None, number) else cost
        for number, cost in enumerate(costs)
    ]


def _changed(
    cost: StageCosts, stage: int, resource: str, share: float, causes: Causes
) -> StageCosts:
    found: dict[str, Any] = {}
    for name in RESOURCES.get(resource, tuple(OF_ACTIONS)):
        of = 1.0
        if name in OF_ACTIONS:
            of = _share(causes.get((stage, OF_ACTIONS[name]), {}), resource)
        found[name] = getattr(cost, name) * (1 - of * (1 - share))
    return dataclasses.replace(cost, **found)


class _Timed(NamedTuple):
    """An `Event` in whole picoseconds, so that equal instants are equal however long the step."""

    rank: int
    stream: str
    name: str
    start_ps: int
    end_ps: int


def _timed(run: Run) -> list[_Timed]:
    if isinstance(run.events, Events):
        return list(map(_Timed._make, zip(*run.events.table.columns_ps(), strict=True)))
    return [_Timed(*event[:3], _ps(event.start_s), _ps(event.end_s)) for event in run.events]


class _Walk:
    """Walk from the end of the step back to the start, along the event that each one waited for."""

    def __init__(self, program: Program, costs: Sequence[StageCosts], run: Run) -> None:
        self.costs = costs
        schedule = computations(program)
        self.needs = producers(schedule)
        self.rank_of = {a[::2]: r for r, actions in enumerate(schedule) for a in actions}
        pairs = [i for rank in program for i in rank if isinstance(i, Overlap)]
        self.other = {action: pair[1 - i] for pair in pairs for i, action in enumerate(pair)}
        self.num_ranks = run.num_ranks
        self.order: dict[tuple[int, str], list[_Timed]] = {}
        self.named: dict[str, _Timed] = {}
        self.events, self.staggered = _timed(run), run.staggered
        for event in self.events:
            self.order.setdefault(self._lane(event), []).append(event)
            if event.stream != "data-parallel":
                self.named[event.name] = event
        self.place = {id(e): i for lane in self.order.values() for i, e in enumerate(lane)}

    def path(self) -> tuple[PathSegment, ...]:
        begin_ps, until_ps, ends = self._step()
        links: list[PathSegment] = []
        event: _Timed | None = min(ends, key=lambda e: (e.rank, e.stream), default=None)
        while event is not None and until_ps > begin_ps:
            links.append(_link(event, until_ps))
            cause = next(self._causes(event), None)
            if cause is None:
                # By post-validation the optimizer may wait for a part of the norm: no event.
                assert event.start_ps == 0 or self.staggered, f"nothing causes {event}"
                break
            before, latency_ps = cause
            until_ps = event.start_ps
            if latency_ps:
                stage = parse_action(before.name.partition(">")[0]).stage
                sent_ps = until_ps - latency_ps
                links.append(
                    _segment("latency", stage, before.rank, before.name, sent_ps, until_ps)
                )
                until_ps = sent_ps
            event = before
        begin_s = begin_ps / PS_PER_S
        return tuple(k._replace(start_s=max(k.start_s, begin_s)) for k in reversed(links))

    def _step(self) -> tuple[int, int, list[_Timed]]:
        """Begin and end of a step, and the events at its end.

        Of ranks with steps of their own it is that of the one whose step is the longest.
        """
        begins, own = [0] * self.num_ranks, self.events
        if self.staggered:
            own = [event for event in own if event.stream != "send"]
            begins = [self.order[r, "compute"][0].start_ps for r in range(self.num_ranks)]
        until = max(own, key=lambda e: (e.end_ps - begins[e.rank], -e.rank), default=None)
        if until is None:
            return 0, 0, []
        ends = [e for e in own if e.end_ps == until.end_ps]
        if self.staggered:
            ends = [e for e in ends if e.rank == until.rank]
        return begins[until.rank], until.end_ps, ends

    def _lane(self, event: _Timed) -> tuple[int, str]:
        if event.stream == "send":
            name, _, to_stage = event.name.partition(">")
            to_rank = self.rank_of[int(to_stage), parse_action(name).micro_batch]
            return event.rank, f"to {to_rank}"
        return event.rank, event.stream

    def _previous(self, event: _Timed) -> _Timed | None:
        place = self.place.get(id(event))
        if place is None:  # A message that took no time, behind others of its link.
            lane = self.order.get(self._lane(event), [])
            return next((e for e in lane if e.end_ps == event.start_ps), None)
        if place and event.stream == "compute" and not event.name.startswith("optimizer"):
            other = self.other.get(parse_action(event.name))
            if other and other.op == "F":
                place -= 1  # The forward of the pair stands before it.
        return self.order[self._lane(event)][place - 1] if place else None

    def _causes(self, event: _Timed) -> Iterator[tuple[_Timed, int]]:
        """The events whose end let `event` start, with the picoseconds in between."""
        previous = self._previous(event)
        if previous is not None and previous.end_ps == event.start_ps:
            yield previous, 0
        if event.stream == "send":
            yield self.named[event.name.partition(">")[0]], 0
        elif event.name.startswith(("optimizer", "gather", "norm")):
            yield from self._ends_at(event, event.rank)
            yield from self._ends_at(event, *range(self.num_ranks))
        elif event.stream == "data-parallel":
            yield from self._backward_of(event)
            # One that the copies of a stage on several ranks have in common.
            yield from self._ends_at(event, *range(self.num_ranks))
        else:
            action = parse_action(event.name)
            for one in (action, self.other.get(action)):
                if one in self.needs:
                    yield from self._message(event, one)

    def _message(self, event: _Timed, action: Action) -> Iterator[tuple[_Timed, int]]:
        maker = self.needs[action]
        made = self.named[str(maker)]
        if self.rank_of[maker[::2]] == self.rank_of[action[::2]]:
            latency_ps = 0
        else:
            latency_ps = to_ps(self.costs[maker.stage].latency_s)
            made = self.named.get(f"{maker}>{action.stage}", made)
        if made.end_ps + latency_ps == event.start_ps:
            yield made, latency_ps
        elif made.stream != "send":
            left_ps = event.start_ps - latency_ps
            message = _Timed(made.rank, "send", f"{maker}>{action.stage}", left_ps, left_ps)
            if self._previous(message) is not None:
                yield message, latency_ps

    def _backward_of(self, event: _Timed) -> Iterator[tuple[_Timed, int]]:
        """The backward in the midst of which a bucket of gradients became ready."""
        stage = int(event.name.split()[1])
        for other in self.order[event.rank, "compute"]:
            if other.start_ps <= event.start_ps <= other.end_ps and _gives_gradients(other, stage):
                yield other, 0

    def _ends_at(self, event: _Timed, *ranks: int) -> Iterator[tuple[_Timed, int]]:
        for lane in ((rank, stream) for rank in ranks for stream in ("compute", "data-parallel")):
            for other in self.order.get(lane, []):
                if other.end_ps == event.start_ps and other is not event:
                    yield other, 0


def _gives_gradients(event: _Timed, stage: int) -> bool:
    if event.name.startswith("optimizer"):
        return False
    action = parse_action(event.name)
    return action.stage == stage and action.op in "BW"


def _link(event: _Timed, until_ps: int) -> PathSegment:
    name = event.name
    if event.stream == "send":
        return _segment(
            "bandwidth", parse_action(name.partition(">")[0]).stage, *_span(event, until_ps)
        )
    for word, resource in (
        ("optimizer", "optimizer"),
        ("gather", "gather"),
        ("reduce", "reduction"),
        ("norm", "norm"),
    ):
        if name.startswith(word):
            return _segment(resource, int(name.split()[1]), *_span(event, until_ps))
    return _segment("compute", parse_action(name).stage, *_span(event, until_ps))


def _span(event: _Timed, until_ps: int) -> tuple[int, str, int, int]:
    return event.rank, event.name, event.start_ps, min(event.end_ps, until_ps)


def _segment(
    resource: str, stage: int, rank: int, name: str, start_ps: int, end_ps: int
) -> PathSegment:
    return PathSegment(resource, stage, rank, name, start_ps / PS_PER_S, end_ps / PS_PER_S)


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_S)
