"""Instruction lists of pipeline ranks and their notation.

The notation is that of torch.distributed.pipelining: `2F5` is the forward of stage 2 on
micro-batch 5; B is the full backward, I the gradient of the input, W the gradient of the weights;
`(0F1;3B0)OVERLAP_F_B` runs a forward and a backward of one rank together. A `Schedule` holds
computations only, one after the other; messages follow from them (`parplan.sim.engine.engine`). A
`Program` may hold overlapped pairs and communication as well, as torch's CSV may; the simulators
take overlapped pairs, but no communication.
"""

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from parplan.errors import ParplanError

FORWARD, BACKWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = OPS = ("F", "B", "I", "W")

MESSAGE_OPS = ("SEND_F", "RECV_F", "SEND_B", "RECV_B")
"""Activations (F) and their gradients (B), each with a micro-batch."""
STAGE_OPS = ("UNSHARD", "RESHARD", "REDUCE_GRAD")
"""What a stage does with its sharded parameters and its gradients, without a micro-batch."""

_NUMBER = "(0|[1-9][0-9]{0,8})"
_ACTION = re.compile(f"{_NUMBER}([FBIW]){_NUMBER}")
_MESSAGE = re.compile(f"{_NUMBER}({'|'.join(MESSAGE_OPS)}){_NUMBER}")
_STAGE = re.compile(f"{_NUMBER}({'|'.join(STAGE_OPS)})")
_OVERLAP = re.compile(r"\(([^;()]*);([^;()]*)\)OVERLAP_F_B")


class Action(NamedTuple):
    """One computation of one stage on one micro-batch."""

    stage: int
    op: str
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.op}{self.micro_batch}"


class Overlap(NamedTuple):
    """A forward and a backward that one rank runs together; both start when both can."""

    forward: Action
    backward: Action

    def __str__(self) -> str:
        return f"({self.forward};{self.backward})OVERLAP_F_B"


class CommunicationOp(NamedTuple):
    """One of `MESSAGE_OPS`, with a micro-batch, or one of `STAGE_OPS`, without."""

    stage: int
    op: str
    micro_batch: int | None = None

    def __str__(self) -> str:
        return f"{self.stage}{self.op}{'' if self.micro_batch is None else self.micro_batch}"


RankActions = tuple[Action, ...]
"""What one rank computes, in order."""

Schedule = tuple[RankActions, ...]
"""The computations of every pipeline rank."""

Instruction = Action | Overlap | CommunicationOp

Program = tuple[tuple[Instruction, ...], ...]
"""What every pipeline rank does, with overlapped pairs and perhaps with communication."""


def parse_action(text: str) -> Action:
    """The action that `text` names; raises `ParplanError` for anything else."""
    match = _ACTION.fullmatch(text)
    if match is None:
        raise ParplanError(f"{text!r} is not an action such as 0F0, 1B3, 2I0 or 2W0")
    return Action(int(match[1]), match[2], int(match[3]))


def parse_instruction(text: str) -> Instruction:
    """The action, overlapped pair or communication that `text` names, else `ParplanError`."""
    if message := _MESSAGE.fullmatch(text):
        return CommunicationOp(int(message[1]), message[2], int(message[3]))
    if stage := _STAGE.fullmatch(text):
        return CommunicationOp(int(stage[1]), stage[2])
    if pair := _OVERLAP.fullmatch(text):
        forward, backward = parse_action(pair[1]), parse_action(pair[2])
        if forward.op != FORWARD or backward.op not in (BACKWARD, INPUT_GRADIENT):
            raise ParplanError(f"{text!r}: expected a forward and then a backward")
        return Overlap(forward, backward)
    return parse_action(text)


def read_csv(text: str, where: str = "schedule") -> Schedule:
    """The computations in a CSV text of either form (`read_program`)."""
    return computations(read_program(text, where))


def read_program(text: str, where: str = "schedule") -> Program:
    """The program of a CSV text, one row per rank.

    An empty cell is a bubble and is skipped, but only where there are computations alone, as torch
    has it. Raises `ParplanError` with `where`, row and column for what is not an instruction.
    """
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ParplanError(f"{where}: not a CSV text: {error}") from None
    program, empty = [], ""
    for number, row in enumerate(rows, start=1):
        instructions = []
        for column, cell in enumerate(map(str.strip, row), start=1):
            place = f"{where}: row {number}, column {column}"
            if not cell:
                empty = empty or place
                continue
            try:
                instructions.append(parse_instruction(cell))
            except ParplanError as error:
                raise ParplanError(f"{place}: {error}") from None
        program.append(tuple(instructions))
    if empty and has_communication(tuple(program)):
        raise ParplanError(f"{empty}: empty, which lists with communication must not have")
    return tuple(program)


def write_csv(program: Program) -> str:
    """The program as CSV, one row per rank, as torch reads it."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([map(str, actions) for actions in program])
    return out.getvalue()


def computations(program: Program) -> Schedule:
    """The computations alone; of an overlapped pair first the forward, then the backward."""
    return tuple(
        rank  # type: ignore[misc]  # It is of actions alone.
        if {Action}.issuperset(map(type, rank))
        else tuple(a for i in rank for a in parts(i))
        for rank in program
    )


def without_communication(program: Program) -> Program:
    """Computations and overlapped pairs: what the simulators take."""
    return tuple(tuple(i for i in rank if not isinstance(i, CommunicationOp)) for rank in program)


def parts(instruction: Instruction) -> tuple[Action, ...]:
    """The computations of one instruction: one, two of an overlapped pair, or none."""
    if isinstance(instruction, Action):
        return (instruction,)
    if isinstance(instruction, Overlap):
        return (instruction.forward, instruction.backward)
    return ()


def has_communication(program: Program) -> bool:
    """Whether the program says when messages are sent and received."""
    return any(isinstance(i, CommunicationOp) for instructions in program for i in instructions)


def rank_of_stages(schedule: Schedule) -> dict[int, int]:
    """The rank that each stage runs on; raises `ParplanError` if one runs on two."""
    ranks: dict[int, int] = {}
    for rank, actions in enumerate(schedule):
        for action in actions:
            if ranks.setdefault(action.stage, rank) != rank:
                raise ParplanError(
                    f"{action}: stage {action.stage} is on rank {ranks[action.stage]} "
                    f"and on rank {rank}"
                )
    return ranks


def check_one_rank_each(schedule: Schedule) -> None:
    """Raise `ParplanError` if a micro-batch is in one stage on two ranks.

    A stage may have copies on several ranks, each for micro-batches of its own (DualPipe).
    """
    ranks: dict[tuple[int, int], int] = {}
    for rank, actions in enumerate(schedule):
        for action in actions:
            stage, _, micro_batch = action
            first = ranks.setdefault((stage, micro_batch), rank)
            if first != rank:
                raise ParplanError(
                    f"{action}: stage {stage} of micro-batch {micro_batch} is on rank {first} "
                    f"and on rank {rank}"
                )


def check_complete(schedule: Schedule, num_stages: int, num_micro_batches: int) -> None:
    """Raise `ParplanError` unless every stage does F and then B (or I and then W) exactly once."""
    seen: dict[tuple[int, int], list[str]] = {}
    for actions in schedule:
        for stage, op, micro_batch in actions:
            seen.setdefault((stage, micro_batch), []).append(op)
    check_one_rank_each(schedule)
    wanted = {(s, m) for s in range(num_stages) for m in range(num_micro_batches)}
    for stage, micro_batch in sorted(wanted - set(seen)):
        raise ParplanError(f"{stage}F{micro_batch} is missing")
    for stage, micro_batch in sorted(set(seen) - wanted):
        raise ParplanError(
            f"stage {stage}, micro-batch {micro_batch} is outside of {num_stages} stages "
            f"and {num_micro_batches} micro-batches"
        )
    for (stage, micro_batch), ops in sorted(seen.items()):
        if ops not in (["F", "B"], ["F", "I", "W"]):
            raise ParplanError(
                f"stage {stage}, micro-batch {micro_batch}: expected F B or F I W, "
                f"got {' '.join(ops)}"
            )


def last_gradient_index(actions: Sequence[Action]) -> dict[int, int]:
    """For each stage, the place in the list of its last weight gradient (B or W)."""
    return {a.stage: i for i, a in enumerate(actions) if a.op in (BACKWARD, WEIGHT_GRADIENT)}
