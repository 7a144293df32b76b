"""Measured costs of a proxy model by part, medians over its steps. Imports no torch."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from parplan.sim.plan import Plan
from parplan.sim.programs.dependencies import producers
from parplan.sim.programs.instructions import Action, Schedule, parse_action, rank_of_stages
from parplan.sim.schedules import make_schedule

Mark = tuple[str, float, float]


class Stepped(Protocol):
    """One step as one process saw it (`parplan.backend.execution.trial_run.Sample`)."""

    @property
    def start_s(self) -> float: ...  # noqa: D102
    @property
    def marks(self) -> Sequence[Mark]: ...  # noqa: D102


class CostPart(NamedTuple):
    """The part of a step to which a cost belongs."""

    name: str
    """F, B, I, W, gather, reduce, or optimizer."""
    place: int
    """The stage; of the optimizer, the pipeline rank."""
    turn: str = ""
    """Of actions, by `turn_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyCosts:
    """One proxy."""

    seconds: Mapping[CostPart, float]
    """Medians, of the mean over the ranks of a stage."""
    free_gap_s: float
    """Between two actions of a rank, where the second one has all it needs on its rank."""
    message_gap_s: float
    """The same where the second one takes a message that is there already."""
    arrival_s: float
    """From the end of an action to the start of one on another rank that waits for its message."""
    begin_s: float
    """From the start of the step to the first action."""
    sync_s: float
    """From the end of the last action to the optimizer."""
    samples: int
    """Steps."""
    noise: Mapping[tuple[str, int], tuple[float, ...]]
    """By the name and place of parts: every sample over the median of its part."""
    exposed: Mapping[CostPart, Mapping[str, float]]
    """By stream: what of `seconds` is spent waiting for collectives."""


def turn_of(action: Action, last: int) -> str:
    """Whether a forward or gradient is the first of its stage, the last, both, or in between.

    last: the place of the last one; `action.micro_batch` counts its place.
    """
    if action.micro_batch == 0:
        return "only" if last == 0 else "first"
    return "last" if action.micro_batch == last else "middle"


def turns(actions: Iterable[Action]) -> dict[Action, str]:
    """The turn of every action of one rank.

    Forwards, input and weight gradients by themselves, a whole backward among the weight gradients,
    which it makes.
    """
    counts: dict[tuple[int, str], int] = defaultdict(int)
    placed = {}
    for action in actions:
        kind = (action.stage, "W" if action.op == "B" else action.op)
        placed[action] = kind, counts[kind]
        counts[kind] += 1
    return {
        action: turn_of(action._replace(micro_batch=place), counts[kind] - 1)
        for action, (kind, place) in placed.items()
    }


Exposed = Mapping[str, Mapping[str, float]]
"""By event and stream: seconds of one process."""


def proxy_costs(
    plan: Plan,
    steps: Sequence[Sequence[Stepped]],
    profiled: tuple[Sequence[Stepped], Sequence[Exposed]] | None,
) -> ProxyCosts:
    """The costs in `steps`, each with the samples of all ranks in order.

    profiled: one more step, slower, with what each process waited for in it, if there was anything.
    Ranks are placed with the pipeline outermost (`parplan.backend.runtime.groups`).
    """
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    found = _Found(plan, schedule)
    for samples in steps:
        found.add(samples)
    shares = found.shares(*profiled) if profiled is not None else {}
    return found.costs(len(steps), shares)


class _Found:
    """Collects samples."""

    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        self.plan, self.schedule = plan, schedule
        self.turns = {a: t for actions in schedule for a, t in turns(actions).items()}
        rank_of = rank_of_stages(schedule)
        self.makers = {
            user: maker
            for user, maker in producers(schedule).items()
            if rank_of[user.stage] != rank_of[maker.stage]
        }
        self.parts: dict[CostPart, list[float]] = defaultdict(list)
        self.gaps: dict[str, list[float]] = defaultdict(list)

    def add(self, samples: Sequence[Stepped]) -> None:
        of_step: dict[CostPart, list[float]] = defaultdict(list)
        width = self.plan.replicas * self.plan.tensor_parallel
        for rank, sample in enumerate(samples):
            for name, start_s, end_s in sample.marks:
                of_step[self._part(name, rank // width)].append(end_s - start_s)
        for part, seconds in of_step.items():
            self.parts[part].append(statistics.mean(seconds))
        for column in range(width):
            self._gaps(samples[column::width])

    def _part(self, name: str, rank: int) -> CostPart:
        word, _, stage = name.partition(" ")
        if word == "optimizer":
            return CostPart(word, rank)
        if stage:
            return CostPart(word, int(stage))
        action = parse_action(name)
        return CostPart(action.op, action.stage, self.turns[action])

    def _gaps(self, column: Sequence[Stepped]) -> None:
        """Time between the recorded marks of the pipeline ranks of one replica."""
        start, end, before = {}, {}, {}
        for sample in column:
            previous_s = sample.start_s
            for name, start_s, end_s in sorted(sample.marks, key=lambda mark: mark[1]):
                if " " not in name:
                    action = parse_action(name)
                    start[action], end[action], before[action] = start_s, end_s, previous_s
                previous_s = end_s
        first, last = min(start.values()), max(end.values())
        self.gaps["begin"].append(first - min(sample.start_s for sample in column))
        tuned = [m[1] for s in column for m in s.marks if m[0].startswith("optimizer")]
        done = max(m[2] for s in column for m in s.marks if not m[0].startswith("optimizer"))
        self.gaps["sync"].append(max(0.0, min(tuned) - max(done, last)))
        for action in start:
            maker = self.makers.get(action)
            gap = start[action] - before[action]
            if maker is None:
                if before[action] > first:
                    self.gaps["free"].append(gap)
            elif end[maker] > before[action]:
                self.gaps["arrival"].append(start[action] - end[maker])
            else:
                self.gaps["message"].append(gap)

    def _noise(self, medians: Mapping[CostPart, float]) -> dict[tuple[str, int], tuple[float, ...]]:
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for part, values in self.parts.items():
            if medians[part] > 0:
                found[part.name, part.place] += [value / medians[part] for value in values]
        return {key: tuple(values) for key, values in found.items()}

    def shares(
        self, samples: Sequence[Stepped], exposed: Sequence[Exposed]
    ) -> dict[CostPart, dict[str, float]]:
        """The share of each part that was spent waiting, by stream."""
        width = self.plan.replicas * self.plan.tensor_parallel
        whole: dict[CostPart, float] = defaultdict(float)
        waited: dict[CostPart, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for rank, (sample, own) in enumerate(zip(samples, exposed, strict=True)):
            for name, start_s, end_s in sample.marks:
                part = self._part(name, rank // width)
                whole[part] += end_s - start_s
                for stream, seconds in own[name].items():
                    waited[part][stream] += seconds
        return {
            part: {stream: seconds / (whole[part] or 1.0) for stream, seconds in streams.items()}
            for part, streams in waited.items()
        }

    def costs(self, count: int, shares: Mapping[CostPart, Mapping[str, float]]) -> ProxyCosts:
        gap = {name: statistics.median(values) for name, values in self.gaps.items()}
        free = gap.get("free", 0.0)
        seconds = {part: statistics.median(values) for part, values in self.parts.items()}
        return ProxyCosts(
            seconds=seconds,
            noise=self._noise(seconds),
            exposed={
                part: {stream: share * seconds[part] for stream, share in streams.items()}
                for part, streams in shares.items()
                if part in seconds
            },
            free_gap_s=free,
            message_gap_s=gap.get("message", free),
            arrival_s=gap.get("arrival", 0.0),
            begin_s=gap["begin"],
            sync_s=gap["sync"],
            samples=count,
        )
