"""Memory of every rank over the time of one step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parplan.errors import ParplanError
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.peak import RankMemory, StageNeeds, activation_bytes, rank_memory
from parplan.sim.programs.dependencies import producers
from parplan.sim.programs.instructions import Action, Program, RankActions, Schedule, computations
from parplan.sim.run import Event, Run

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOverTime:
    """Memory of one rank over a step.

    Entry i of the arrays holds from `times_s[i]` to `times_s[i + 1]`, which may be the same
    instant; the last one to the end of the step.
    """

    rank: int
    state: RankMemory
    """Parameters, gradients and optimizer state, which stay."""
    times_s: Floats
    activation_bytes: Floats
    """With what is recomputed."""
    message_bytes: Floats
    """Received and not yet used, or made and not yet sent."""
    fragmented_share: float
    """What the allocator wastes, as a share of activations and messages."""

    @property
    def total_bytes(self) -> Floats:
        """All of it."""
        made = self.activation_bytes + self.message_bytes
        return self.state.state_bytes + (1.0 + self.fragmented_share) * made

    @property
    def peak_bytes(self) -> float:
        """The largest total."""
        return float(self.total_bytes.max())

    @property
    def peak_s(self) -> float:
        """The first time at which the peak is reached."""
        return float(self.times_s[int(self.total_bytes.argmax())])


def memory_over_time(
    schedule: Program,
    needs: Sequence[StageNeeds],
    run: Run,
    *,
    message_bytes: float = 0.0,
    fragmented_share: float = 0.0,
) -> tuple[MemoryOverTime, ...]:
    """The memory of every pipeline rank while `run` of `schedule` goes on.

    `needs`: those of all stages. `message_bytes`: of one micro-batch's activations between
    stages. Activations are there from the start of the action that makes them to the end of the one
    that frees them; a message, on its receiver, from the start of its transfer to that of its use,
    and on its sender until it is sent. Raises `ParplanError` for a negative share.
    """
    if fragmented_share < 0:
        raise ParplanError(f"fragmented_share: must not be negative, got {fragmented_share}")
    schedule = computations(schedule)
    named = {event.name: event for event in run.events}
    messages = _messages(schedule, named) if message_bytes else []
    peaks = rank_memory(needs, moments_of(schedule))
    return tuple(
        _rank(
            rank,
            peaks[rank],
            _activations(actions, needs, named),
            [(t, n * message_bytes) for r, t, n in messages if r == rank],
            fragmented_share,
        )
        for rank, actions in enumerate(schedule)
    )


def _rank(
    rank: int,
    state: RankMemory,
    activations: list[tuple[float, float]],
    messages: list[tuple[float, float]],
    fragmented_share: float,
) -> MemoryOverTime:
    # At one instant: messages are freed, activations change, messages are made.
    moments = [(t, 0 if change < 0 else 2, change) for t, change in messages]
    moments += [(t, 1, level) for t, level in activations]
    moments.sort(key=lambda moment: moment[:2])
    times, levels, held = [0.0], [0.0], [0.0]
    for time_s, kind, value in moments:
        times.append(time_s)
        levels.append(value if kind == 1 else levels[-1])
        held.append(held[-1] if kind == 1 else held[-1] + value)
    return MemoryOverTime(
        rank=rank,
        state=state,
        times_s=np.array(times),
        activation_bytes=np.array(levels),
        message_bytes=np.array(held),
        fragmented_share=fragmented_share,
    )


def _activations(
    actions: RankActions, needs: Sequence[StageNeeds], named: dict[str, Event]
) -> list[tuple[float, float]]:
    """(from when on, bytes): while each action runs, and what is kept after it."""
    levels = []
    for action, running, kept in activation_bytes(actions, needs):
        event = named[str(action)]
        levels += [(event.start_s, running), (event.end_s, kept)]
    return levels


def _messages(schedule: Schedule, named: dict[str, Event]) -> list[tuple[int, float, int]]:
    """(rank, when, +1 or -1 messages held)."""
    rank_of = {a: r for r, actions in enumerate(schedule) for a in actions}
    changes: list[tuple[int, float, int]] = []
    for user, maker in producers(schedule).items():
        sender, receiver = rank_of[maker], rank_of[user]
        if sender != receiver:
            changes += _message(user, maker, sender, receiver, named)
    return changes


def _message(
    user: Action, maker: Action, sender: int, receiver: int, named: dict[str, Event]
) -> list[tuple[int, float, int]]:
    made, used = named[str(maker)], named[str(user)]
    sent = named.get(f"{maker}>{user.stage}")
    start_s, end_s = (sent.start_s, sent.end_s) if sent else (made.end_s, made.end_s)
    # A gradient is needed until the backward that takes it is done, activations are kept as saved.
    freed_s = used.start_s if user.op == "F" else used.end_s
    held = [(sender, made.end_s, end_s), (receiver, start_s, freed_s)]
    return [
        change
        for rank, since_s, until_s in held
        if until_s > since_s
        for change in ((rank, since_s, 1), (rank, until_s, -1))
    ]
