"""Names of events in words, for those who read a timeline."""

import re
from typing import NamedTuple

from parplan.sim.run import Event

KINDS = {"F": "forward", "B": "backward", "I": "input backward", "W": "weight backward"}
MESSAGES = {"F": "activations", "B": "gradients", "I": "gradients"}
OTHERS = {
    "reduce": "reduce gradients",
    "gather": "gather parameters",
    "optimizer": "optimizer step",
    "norm": "norm of the gradients",
}

_ACTION = re.compile(r"(\d+)([FBIW])(\d+)(?:>(\d+)| (.+))?")
_OTHER = re.compile(r"([a-z]+) (\d+)")


class EventWords(NamedTuple):
    """What the name of an event says."""

    name: str
    """In words."""
    stage: int | None = None
    op: str = ""
    """F, B, I or W, of actions and of what belongs to one."""
    micro_batch: int | None = None
    to_stage: int | None = None
    """Of messages."""
    exchange: str = ""
    """Of exchanges within an action: the operation and the collective."""


def event_words(event: Event) -> EventWords:
    """The name of an event in words, and its parts; other names than the simulators' stay."""
    if match := _ACTION.fullmatch(event.name):
        stage, op, micro_batch, to_stage, exchange = match.groups()
        number = int(micro_batch)
        parts = (int(stage), op, number, None if to_stage is None else int(to_stage))
        if to_stage is not None:
            said = f"{MESSAGES.get(op, 'message')} of micro-batch {number} to stage {to_stage}"
            return EventWords(said, *parts)
        if exchange:
            return EventWords(exchange, *parts, exchange)
        return EventWords(f"{KINDS[op]} of micro-batch {number}", *parts)
    if (match := _OTHER.fullmatch(event.name)) and match[1] in OTHERS:
        return EventWords(f"{OTHERS[match[1]]} of stage {match[2]}", int(match[2]))
    return EventWords(event.name)
