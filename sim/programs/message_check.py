"""Validation of the sends and receives of a program."""

import itertools
from collections import defaultdict
from collections.abc import Iterator

from parplan.sim.programs.instructions import MESSAGE_OPS, Action, CommunicationOp, Program, parts
from parplan.sim.programs.order import partner, sent_by

Pair = tuple[int, int]
"""(from rank, to rank)."""


def message_problems(program: Program, num_stages: int) -> list[str]:
    """One line for each send or receive that is wrong.

    Missing, needless, twice, on another rank, before what it sends or after what needs it; then for
    each pair of ranks with different orders. The computations are expected to be complete and on
    the right ranks.
    """
    problems = [*_foreign(program), *_unexpected(program, num_stages), *_late(program, num_stages)]
    return problems or list(_orders(program))


def _rank_of(program: Program) -> dict[tuple[int, int], int]:
    return {
        (a.stage, a.micro_batch): rank
        for rank, instructions in enumerate(program)
        for instruction in instructions
        for a in parts(instruction)
    }


def _foreign(program: Program) -> Iterator[str]:
    """Instructions for a stage that the rank does not have."""
    for rank, instructions in enumerate(program):
        own = {a.stage for i in instructions for a in parts(i)}
        for place, instruction in enumerate(instructions, start=1):
            if isinstance(instruction, CommunicationOp) and instruction.stage not in own:
                yield (
                    f"rank {rank}, instruction {place}: {instruction}, "
                    f"but stage {instruction.stage} is not on this rank"
                )


def _unexpected(program: Program, num_stages: int) -> Iterator[str]:
    """Messages that are missing, needless, or there twice."""
    rank_of = _rank_of(program)
    wanted: dict[tuple[int, CommunicationOp], Action] = {}
    for rank, instructions in enumerate(program):
        for action in itertools.chain.from_iterable(map(parts, instructions)):
            send = sent_by(action, num_stages)
            receive = send and partner(send)
            if send is None or receive is None:
                continue
            to_rank = rank_of[receive.stage, action.micro_batch]
            if to_rank != rank:
                wanted[rank, send] = wanted[to_rank, receive] = action
    seen: set[tuple[int, CommunicationOp]] = set()
    for rank, instructions in enumerate(program):
        for place, message in enumerate(instructions, start=1):
            if not isinstance(message, CommunicationOp) or message.op not in MESSAGE_OPS:
                continue
            if (rank, message) in seen:
                yield f"rank {rank}, instruction {place}: {message} is there twice"
            elif (rank, message) not in wanted:
                yield f"rank {rank}, instruction {place}: {message} has nothing to carry"
            seen.add((rank, message))
    for (rank, message), action in wanted.items():
        if (rank, message) not in seen:
            yield f"rank {rank}: {message} is missing, which carries the result of {action}"


def _late(program: Program, num_stages: int) -> Iterator[str]:
    """Sends before their computation, receives after what needs them."""
    for rank, instructions in enumerate(program):
        place_of = {
            instruction: place
            for place, instruction in enumerate(instructions, start=1)
            if isinstance(instruction, CommunicationOp)
        }
        for place, instruction in enumerate(instructions, start=1):
            for action in parts(instruction):
                send = sent_by(action, num_stages)
                if send is not None and place_of.get(send, place) < place:
                    yield f"rank {rank}: {send} (instruction {place_of[send]}) is before {action}"
                if action.op != "W":
                    kind = "F" if action.op == "F" else "B"
                    receive = CommunicationOp(action.stage, f"RECV_{kind}", action.micro_batch)
                    if place_of.get(receive, place) > place:
                        yield (
                            f"rank {rank}: {receive} (instruction {place_of[receive]}) "
                            f"is after {action}, which needs it"
                        )


def _orders(program: Program) -> Iterator[str]:
    """Pairs of ranks in which messages are received in another order than they are sent."""
    rank_of = _rank_of(program)
    sent: dict[Pair, list[CommunicationOp]] = defaultdict(list)
    received: dict[Pair, list[CommunicationOp]] = defaultdict(list)
    for rank, instructions in enumerate(program):
        for message in instructions:
            if not isinstance(message, CommunicationOp) or message.micro_batch is None:
                continue
            other = partner(message)
            assert other is not None
            peer = rank_of[other.stage, message.micro_batch]
            if message.op.startswith("SEND"):
                sent[rank, peer].append(other)
            else:
                received[peer, rank].append(message)
    for (source, target), messages in sent.items():
        for number, (arrives, expected) in enumerate(
            zip(messages, received[source, target], strict=True), start=1
        ):
            if arrives != expected:
                yield (
                    f"message {number} from rank {source} to rank {target}: rank {source} does "
                    f"{partner(arrives)}, but rank {target} does {expected}"
                )
                break
