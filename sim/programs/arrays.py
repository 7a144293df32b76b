"""Instruction lists as arrays: the lists of all ranks one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import (
    OPS,
    Action,
    CommunicationOp,
    Overlap,
    Program,
    Schedule,
    check_complete,
    computations,
)

F, B, I, W = range(4)  # noqa: E741

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionArrays:
    """Instruction lists of all ranks as arrays.

    `stage`, `op` (index into `OPS`) and `micro_batch` of every action; the actions of rank r are
    those from `first[r]` to `first[r + 1]`.
    """

    stage: Codes
    op: Codes
    micro_batch: Codes
    first: Codes
    pairs: Codes
    """Places of the forwards that run together with the backward at the next place."""

    def __len__(self) -> int:
        return len(self.stage)

    @property
    def num_ranks(self) -> int:
        """Pipeline ranks."""
        return len(self.first) - 1

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return 1 + int(self.stage.max(initial=-1))

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step."""
        return 1 + int(self.micro_batch.max(initial=-1))

    def rank(self) -> Codes:
        """The rank of every action."""
        return np.repeat(np.arange(self.num_ranks, dtype=np.int32), np.diff(self.first))

    def copies(self) -> Codes:
        """Pairs (stage, rank) of the copies of each stage, in order, shape [copies, 2]."""
        code = np.flatnonzero(np.bincount(self.stage * self.num_ranks + self.rank()))
        return np.stack(np.divmod(code, self.num_ranks), axis=1).astype(np.int32)

    def action(self, place: int) -> Action:
        """The action at one place."""
        return Action(int(self.stage[place]), OPS[self.op[place]], int(self.micro_batch[place]))

    def schedule(self) -> Schedule:
        """The same lists as actions, those of overlapped pairs one after the other."""
        ops = [OPS[op] for op in self.op.tolist()]
        actions = list(map(Action, self.stage.tolist(), ops, self.micro_batch.tolist()))
        bounds = self.first.tolist()
        return tuple(tuple(actions[a:b]) for a, b in pairwise(bounds))


def action_arrays(program: Program) -> ActionArrays:
    """The lists of `program` as arrays; raises `ParplanError` if they hold communication."""
    schedule, pairs = _flat(program)
    actions = list(chain.from_iterable(schedule))
    stages, ops, micro_batches = (list(map(itemgetter(i), actions)) for i in range(3))
    code = np.zeros(128, dtype=np.int32)
    code[[ord(op) for op in OPS]] = range(len(OPS))
    return ActionArrays(
        stage=np.array(stages, dtype=np.int32),
        op=code[np.frombuffer("".join(ops).encode(), dtype=np.uint8)],
        micro_batch=np.array(micro_batches, dtype=np.int32),
        first=_first([len(actions) for actions in schedule]),
        pairs=np.array(pairs, dtype=np.int32),
    )


def _flat(program: Program) -> tuple[Schedule, list[int]]:
    """The computations, and the places of the forwards of overlapped pairs."""
    types = set(map(type, chain.from_iterable(program)))
    if CommunicationOp in types:
        raise ParplanError(
            "the lists hold communication, which follows from the computations; leave it out "
            "(without_communication)"
        )
    if Overlap not in types:
        return program, []  # type: ignore[return-value]
    pairs, place = [], 0
    for instruction in chain.from_iterable(program):
        if isinstance(instruction, Overlap):
            if instruction.forward[::2] == instruction.backward[::2]:
                raise ParplanError(f"{instruction}: its backward needs its forward")
            pairs.append(place)
            place += 1
        place += 1
    return computations(program), pairs


def _first(lengths: Sequence[int]) -> Codes:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)


def check_arrays(lists: ActionArrays, num_stages: int | None = None) -> None:
    """Check that every stage computes each micro-batch exactly once, all on one rank.

    That is F and then B, or F, I and then W. Raises `ParplanError` otherwise.
    """
    if not len(lists):
        raise ParplanError("a schedule needs at least one rank and one stage")
    stages = lists.num_stages if num_stages is None else num_stages
    if lists.num_stages > stages or not _is_complete(lists, stages):
        # Found by arrays, named by the reader of lists.
        check_complete(lists.schedule(), stages, lists.num_micro_batches)
        raise AssertionError("the two checks of completeness differ")


def _is_complete(lists: ActionArrays, stages: int) -> bool:
    rank = lists.rank()
    cells = stages * lists.num_micro_batches
    cell = lists.stage * lists.num_micro_batches + lists.micro_batch
    rank_of = np.zeros(cells, dtype=np.int32)
    rank_of[cell] = rank
    if not np.array_equal(rank_of[cell], rank):
        return False
    counts = np.bincount(cell * 4 + lists.op, minlength=4 * cells).reshape(cells, 4)
    whole = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 1])
    if not ((counts == whole[0]).all(axis=1) | (counts == whole[1]).all(axis=1)).all():
        return False
    place = places(lists, stages)
    gradient = np.maximum(place[B], place[I])
    return bool((place[F] < gradient).all() and ((place[W] < 0) | (place[I] < place[W])).all())


def places(lists: ActionArrays, stages: int) -> Codes:
    """Position of each action, shape [4, stages x micro-batches]; -1 where there is none."""
    place = np.full((4, stages * lists.num_micro_batches), -1, dtype=np.int32)
    cell = lists.stage * lists.num_micro_batches + lists.micro_batch
    place[lists.op, cell] = np.arange(len(lists), dtype=np.int32)
    return place
