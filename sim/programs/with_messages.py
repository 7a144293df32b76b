"""Insertion of sends and receives into computation lists in a deadlock-free order."""

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import (
    CommunicationOp,
    Instruction,
    Program,
    has_communication,
    parts,
)
from parplan.sim.programs.order import partner, progress, sent_by


def add_communication(program: Program, *, reduce_gradients: bool = False) -> Program:
    """Add the sends and receives that the computations of a program need.

    Each send follows the computation whose result another rank needs; its receive is in that rank's
    list. Sends and receives are placed together, in one order for all ranks that the computations
    allow: so no two ranks ever wait for each other's messages, not even without buffers, and
    receives are posted as early as that order allows. `reduce_gradients`: adds a REDUCE_GRAD after
    the last weight gradient of each stage. Raises `ParplanError` for a program that deadlocks or
    has communication already.
    """
    if has_communication(program):
        raise ParplanError("the program has communication already")
    stages = [a.stage for instructions in program for i in instructions for a in parts(i)]
    num_stages = 1 + max(stages, default=-1)
    found = progress(program, num_stages)
    if found.blocked:
        rank, (instruction, missing) = min(found.blocked.items())
        raise ParplanError(
            f"the schedule deadlocks: rank {rank} at {instruction} waits for {missing}"
        )
    rank_of = _ranks(program)
    lists: list[list[Instruction]] = [[] for _ in program]
    for rank, instruction in found.order:
        lists[rank].append(instruction)
        for action in parts(instruction):
            send = sent_by(action, num_stages)
            receive = send and partner(send)
            if send is None or receive is None:
                continue
            to_rank = rank_of[receive.stage, action.micro_batch]
            if to_rank != rank:
                lists[rank].append(send)
                lists[to_rank].append(receive)
    return tuple(tuple(_with_reductions(x) if reduce_gradients else x) for x in lists)


def _ranks(program: Program) -> dict[tuple[int, int], int]:
    """The rank of each (stage, micro-batch)."""
    return {
        (action.stage, action.micro_batch): rank
        for rank, instructions in enumerate(program)
        for instruction in instructions
        for action in parts(instruction)
    }


def _with_reductions(instructions: list[Instruction]) -> list[Instruction]:
    last = {
        action.stage: place
        for place, instruction in enumerate(instructions)
        for action in parts(instruction)
        if action.op in "BW"
    }
    at = {place: stage for stage, place in last.items()}
    result: list[Instruction] = []
    for place, instruction in enumerate(instructions):
        result.append(instruction)
        if place in at:
            result.append(CommunicationOp(at[place], "REDUCE_GRAD"))
    return result
