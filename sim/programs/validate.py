"""Validation of instruction lists, one line per problem.

Places in a list are counted from 1, as the columns of its CSV are (where no cell is empty).
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import (
    Action,
    CommunicationOp,
    Instruction,
    Program,
    has_communication,
    parts,
)
from parplan.sim.programs.message_check import message_problems
from parplan.sim.programs.order import progress


class Where(NamedTuple):
    """A place in the lists."""

    rank: int
    place: int

    def __str__(self) -> str:
        return f"rank {self.rank}, instruction {self.place}"


def check_program(
    program: Program, num_stages: int, num_micro_batches: int, *, bidirectional: bool = False
) -> None:
    """Raise `ParplanError` with the first problem that `explain` finds, and how many more."""
    problems = explain(program, num_stages, num_micro_batches, bidirectional=bidirectional)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ParplanError(problems[0] + more)


def explain(
    program: Program, num_stages: int, num_micro_batches: int, *, bidirectional: bool = False
) -> list[str]:
    """Explain why the program cannot train `num_stages` stages on `num_micro_batches`.

    Computations first: missing, twice, outside of the sizes, on another rank, B mixed with I and W,
    in the wrong order. Then messages, if the program has any, and then, if nothing else is wrong,
    a deadlock. `bidirectional`: a stage may be on two ranks, each with micro-batches of its own.
    """
    places = _places(program)
    problems = [
        *_outside(places, num_stages, num_micro_batches),
        *_two_ranks(places, bidirectional),
        *_incomplete(places, num_stages, num_micro_batches),
        *_misplaced(places),
    ]
    if not problems and has_communication(program):
        problems += message_problems(program, num_stages)
    return problems or deadlock(program, num_stages)


def deadlock(program: Program, num_stages: int) -> list[str]:
    """One line that names each blocked rank, what it waits for and the cycle; else nothing."""
    blocked = progress(program, num_stages).blocked
    if not blocked:
        return []
    rank_of: dict[Action | CommunicationOp, int] = {}
    for rank, instructions in enumerate(program):
        for instruction in instructions:
            rank_of.update((key, rank) for key in _results(instruction))
    lines, waits_for = [], {}
    for rank, (instruction, missing) in sorted(blocked.items()):
        waits_for[rank] = rank_of.get(missing)
        of = "" if waits_for[rank] is None else f" of rank {waits_for[rank]}"
        lines.append(f"rank {rank} at {instruction} waits for {missing}{of}")
    path: list[int] = []
    at: int | None = min(blocked)
    while at is not None and at not in path:
        path.append(at)
        at = waits_for.get(at)
    cycle = "" if at is None else " -> ".join(map(str, [*path[path.index(at) :], at]))
    return [f"the schedule deadlocks: {'; '.join(lines)}" + (f" (cycle {cycle})" if cycle else "")]


def _results(instruction: Instruction) -> list[Action | CommunicationOp]:
    """An instruction under the names by which others wait for it."""
    if isinstance(instruction, CommunicationOp):
        return [instruction]
    return [a._replace(op="B") if a.op == "I" else a for a in parts(instruction)]


def _places(program: Program) -> dict[Action, list[Where]]:
    """The position of each computation."""
    places: dict[Action, list[Where]] = defaultdict(list)
    for rank, instructions in enumerate(program):
        for place, instruction in enumerate(instructions, start=1):
            for action in parts(instruction):
                places[action].append(Where(rank, place))
    return places


def _outside(
    places: dict[Action, list[Where]], num_stages: int, num_micro_batches: int
) -> Iterator[str]:
    for action, (where, *_) in places.items():
        if action.stage >= num_stages or action.micro_batch >= num_micro_batches:
            yield (
                f"{where}: {action} is outside of {num_stages} stages "
                f"and {num_micro_batches} micro-batches"
            )


def _two_ranks(places: dict[Action, list[Where]], bidirectional: bool) -> Iterator[str]:
    """A stage has its parameters, and a micro-batch of it its activations, on one rank."""
    first: dict[tuple[int, ...], tuple[Action, int]] = {}
    told = set()
    for action, found in places.items():
        key = (action.stage, action.micro_batch) if bidirectional else (action.stage,)
        for where in found:
            other, rank = first.setdefault(key, (action, where.rank))
            if rank != where.rank and (key, where.rank) not in told:
                told.add((key, where.rank))
                of = f"micro-batch {action.micro_batch} of " if bidirectional else ""
                yield (
                    f"{of}stage {action.stage} is on rank {rank} ({other}) "
                    f"and on rank {where.rank} ({action})"
                )


def _incomplete(
    places: dict[Action, list[Where]], num_stages: int, num_micro_batches: int
) -> Iterator[str]:
    for stage in range(num_stages):
        for m in range(num_micro_batches):
            has = {op for op in "FBIW" if Action(stage, op, m) in places}
            if "B" in has and has & {"I", "W"}:
                mixed = " and ".join(op for op in "BIW" if op in has)
                yield (
                    f"stage {stage}, micro-batch {m} has {mixed}; "
                    "a backward is either B, or I and W"
                )
                continue
            wanted = "FIW" if has & {"I", "W"} else "FB"
            for op in wanted:
                if op not in has:
                    yield f"{stage}{op}{m} is missing"


def _misplaced(places: dict[Action, list[Where]]) -> Iterator[str]:
    """Computations that are there twice, or before one that they follow from."""
    before = {"B": "F", "I": "F", "W": "I"}
    for action, found in places.items():
        if len(found) > 1:
            yield f"{action} is there {len(found)} times: {', and '.join(map(str, found))}"
        first = action._replace(op=before.get(action.op, ""))
        for earlier in places.get(first, ())[:1]:
            where = found[0]
            if where.rank == earlier.rank and where.place <= earlier.place:
                yield (
                    f"rank {where.rank}: {action} (instruction {where.place}) has to come after "
                    f"{first} (instruction {earlier.place})"
                )
