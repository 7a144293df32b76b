"""Messages between stages: producers, consumers and unmatched messages."""

from collections.abc import Iterable
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import Action


class Message(NamedTuple):
    """A message between stages: activations (F) or their gradients (B)."""

    to_stage: int
    kind: str
    micro_batch: int


def needs(action: Action, num_stages: int) -> Message | None:
    """The message that must have arrived before `action` begins."""
    stage, op, micro_batch = action
    if op == "F" and stage > 0:
        return Message(stage, "F", micro_batch)
    if op in "BI" and stage < num_stages - 1:
        return Message(stage, "B", micro_batch)
    return None


def makes(action: Action, num_stages: int) -> Message | None:
    """The message that is sent when `action` is done."""
    stage, op, micro_batch = action
    if op == "F" and stage < num_stages - 1:
        return Message(stage + 1, "F", micro_batch)
    if op in "BI" and stage > 0:
        return Message(stage - 1, "B", micro_batch)
    return None


def deadlock(blocked: Iterable[tuple[int, Action]], num_stages: int) -> ParplanError:
    """The error that names each blocked rank, the action it stands at and what that waits for."""
    lines = []
    for rank, action in sorted(blocked):
        message = needs(action, num_stages)
        if message is not None:
            lines.append(
                f"rank {rank} at {action} waits for {message.kind} of micro-batch "
                f"{message.micro_batch} for stage {message.to_stage}"
            )
    return ParplanError(f"the schedule deadlocks: {'; '.join(lines)}")
