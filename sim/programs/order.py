"""Topological order of a program, and deadlock detection."""

from collections import deque
from dataclasses import dataclass

from parplan.sim.programs.instructions import Action, CommunicationOp, Instruction, Program, parts


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramProgress:
    """The furthest state that a program reaches."""

    order: tuple[tuple[int, Instruction], ...]
    """(rank, instruction) in an order that respects every dependency."""
    blocked: dict[int, tuple[Instruction, Action | CommunicationOp]]
    """For each rank that does not get to its end: where it is, and what it waits for."""


def progress(program: Program, num_stages: int) -> ProgramProgress:
    """Run every list as far as it goes, the ranks in turn, one instruction each.

    A computation waits for its inputs, a send for its receive and a receive for its send, as
    messages between two ranks do on one communicator without buffers.
    """
    done: set[Action | CommunicationOp] = set()
    waiting: dict[Action | CommunicationOp, list[int]] = {}
    place = [0] * len(program)
    order: list[tuple[int, Instruction]] = []
    turns = deque(rank for rank, instructions in enumerate(program) if instructions)

    def finish(key: Action | CommunicationOp) -> None:
        done.add(key)
        turns.extend(waiting.pop(key, ()))

    while turns:
        rank = turns.popleft()
        instruction = program[rank][place[rank]]
        if isinstance(instruction, CommunicationOp):
            finish(instruction)  # its partner may go on; this rank, when the partner is there
        missing = next((n for n in needs(instruction, num_stages) if n not in done), None)
        if missing is not None:
            waiting.setdefault(missing, []).append(rank)
            continue
        order.append((rank, instruction))
        for action in parts(instruction):
            finish(result(action))
        place[rank] += 1
        if place[rank] < len(program[rank]):
            turns.append(rank)
    blocked = {
        rank: (program[rank][place[rank]], key) for key, ranks in waiting.items() for rank in ranks
    }
    return ProgramProgress(order=tuple(order), blocked=blocked)


def needs(instruction: Instruction, num_stages: int) -> list[Action | CommunicationOp]:
    """Prerequisites of an action; gradients of inputs are named B, whether from B or I."""
    if isinstance(instruction, CommunicationOp):
        match = partner(instruction)
        return [] if match is None else [match]
    found: list[Action | CommunicationOp] = []
    for stage, op, micro_batch in parts(instruction):
        if op == "F" and stage > 0:
            found.append(Action(stage - 1, "F", micro_batch))
        elif op in "BI":
            found.append(Action(stage, "F", micro_batch))
            if stage < num_stages - 1:
                found.append(Action(stage + 1, "B", micro_batch))
    return found


def partner(message: CommunicationOp) -> CommunicationOp | None:
    """The receive of a send, the send of a receive; None for what is not a message."""
    stage, op, micro_batch = message
    if micro_batch is None:
        return None
    verb, kind = op.split("_")
    step = 1 if (verb == "SEND") == (kind == "F") else -1
    return CommunicationOp(
        stage + step, f"{'RECV' if verb == 'SEND' else 'SEND'}_{kind}", micro_batch
    )


def sent_by(action: Action, num_stages: int) -> CommunicationOp | None:
    """The send that follows a computation, whether or not the next stage is on another rank."""
    stage, op, micro_batch = action
    if op == "F" and stage < num_stages - 1:
        return CommunicationOp(stage, "SEND_F", micro_batch)
    if op in "BI" and stage > 0:
        return CommunicationOp(stage, "SEND_B", micro_batch)
    return None


def result(action: Action) -> Action:
    """The result for which others wait: B for either backward that makes the input gradient."""
    return action._replace(op="B") if action.op == "I" else action
