"""Idle seconds of each rank by cause."""

from dataclasses import dataclass, fields

from parplan.sim.programs.dependencies import producers
from parplan.sim.programs.instructions import Action, Overlap, Program, RankActions, computations
from parplan.sim.run import Event, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Seconds in which the compute stream of one rank did nothing, by cause."""

    warm_up_s: float = 0.0
    """Waiting for a neighbour's computation before the rank's first backward."""
    dependency_s: float = 0.0
    """Waiting for a neighbour's computation in between."""
    drain_s: float = 0.0
    """Waiting for a neighbour's computation after the rank's last forward."""
    communication_s: float = 0.0
    """Waiting for a message that is computed but has not arrived."""
    data_parallel_s: float = 0.0
    """Waiting for reductions of gradients and gathers of parameters at the end of the step."""
    end_s: float = 0.0
    """Done, while other ranks are not."""

    @property
    def total_s(self) -> float:
        """All of them."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def idle_by_cause(program: Program, run: Run) -> tuple[Idle, ...]:
    """The idle seconds of every pipeline rank; with its busy seconds they make the step.

    `run`: the result of simulating `program`, predicted or measured.
    """
    schedule = computations(program)
    events: dict[int, list[Event]] = {}
    by_name: dict[str, Event] = {}
    for event in run.events:
        events.setdefault(event.rank, []).append(event)
        if event.stream == "compute":
            by_name[event.name] = event
    needs = producers(schedule)
    made_s: dict[Action, float] = {}
    for action, producer in needs.items():
        made = by_name.get(str(producer))
        if made is not None:
            made_s[action] = made.end_s
    for pair in (i for rank in program for i in rank if isinstance(i, Overlap)):
        made_s.update(dict.fromkeys(pair, max(made_s.get(action, 0.0) for action in pair)))
    return tuple(
        _rank(actions, events.get(rank, []), made_s, run) for rank, actions in enumerate(schedule)
    )


def _rank(actions: RankActions, events: list[Event], made_s: dict[Action, float], run: Run) -> Idle:
    compute = {event.name: event for event in events if event.stream == "compute"}
    seconds = {field.name: 0.0 for field in fields(Idle)}
    first_backward = next((i for i, a in enumerate(actions) if a.op != "F"), len(actions))
    last_forward = max((i for i, a in enumerate(actions) if a.op == "F"), default=-1)
    begin_s = compute[str(actions[0])].start_s if run.staggered and actions else 0.0
    now_s = begin_s
    for i, action in enumerate(actions):
        event = compute[str(action)]
        if event.start_s > now_s:
            ready_s = min(max(made_s.get(action, event.start_s), now_s), event.start_s)
            seconds["communication_s"] += event.start_s - ready_s
            phase = "drain_s" if i > last_forward else "dependency_s"
            seconds["warm_up_s" if i <= first_backward else phase] += ready_s - now_s
        now_s = max(now_s, event.end_s)
    rest = [e for e in events if e.name.startswith("optimizer")]
    done_s = max((e.end_s for e in events if e.stream != "send"), default=0.0)
    busy_s = sum(e.end_s - e.start_s for e in rest)
    seconds["data_parallel_s"] = max(0.0, done_s - now_s - busy_s)
    # The sum of two times may be an ulp below the end that it equals in picoseconds.
    seconds["end_s"] = max(0.0, begin_s + run.step_s - max(done_s, now_s))
    return Idle(**seconds)


def bubble_by_cause(program: Program, run: Run) -> dict[str, float]:
    """Each cause's share of the step, mean over the ranks; they add up to `run.bubble`."""
    idle = idle_by_cause(program, run)
    whole_s = len(idle) * run.step_s or 1.0
    names = [field.name for field in fields(Idle)]
    return {n.removesuffix("_s"): sum(getattr(r, n) for r in idle) / whole_s for n in names}
