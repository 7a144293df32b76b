"""Instruction lists: what each pipeline rank does, in order.

The notation is that of torch.distributed.pipelining: `2F5` is the forward of stage 2 on
micro-batch 5; B is the full backward, I the gradient of the input, W the gradient of the weights.
A list holds computations only; messages follow from them (`parplan.sim.engine`).
"""

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from parplan.hardware.errors import ParplanError

FORWARD, BACKWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = OPS = ("F", "B", "I", "W")

_ACTION = re.compile(r"(\d{1,6})([FBIW])(\d{1,6})")


class Action(NamedTuple):
    """One computation of one stage on one micro-batch."""

    stage: int
    op: str
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.op}{self.micro_batch}"


RankActions = tuple[Action, ...]
"""What one rank does, in order."""

Schedule = tuple[RankActions, ...]
"""The list of every pipeline rank."""


def parse_action(text: str) -> Action:
    """The action that `text` names; raises `ParplanError` for anything else."""
    match = _ACTION.fullmatch(text)
    if match is None:
        raise ParplanError(f"{text!r} is not an action such as 0F0, 1B3, 2I0 or 2W0")
    return Action(int(match[1]), match[2], int(match[3]))


def read_csv(text: str, where: str = "schedule") -> Schedule:
    """The schedule of a CSV text, one row per rank; an empty cell is a bubble and is skipped."""
    ranks = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        try:
            ranks.append(tuple(parse_action(cell.strip()) for cell in row if cell.strip()))
        except ParplanError as error:
            raise ParplanError(f"{where}: row {number}: {error}") from None
    return tuple(ranks)


def write_csv(schedule: Schedule) -> str:
    """The schedule as CSV, one row per rank."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([map(str, actions) for actions in schedule])
    return out.getvalue()


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


def check_complete(schedule: Schedule, num_stages: int, num_micro_batches: int) -> None:
    """Raise `ParplanError` unless every stage does F and then B (or I and then W) exactly once."""
    seen: dict[tuple[int, int], list[str]] = {}
    for actions in schedule:
        for stage, op, micro_batch in actions:
            seen.setdefault((stage, micro_batch), []).append(op)
    rank_of_stages(schedule)
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
