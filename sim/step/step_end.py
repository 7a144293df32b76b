"""End of a step: reductions, gradient norm, optimizer, parameter gather.

From when each rank is done with its list and the reductions beside it:

1. A stage with copies on several ranks (DualPipe) reduces its gradients over all of them at once,
   after their lists, one stage after the other, the lowest first.
2. The norm of the gradients, where it is asked for: synchronous, all ranks wait for the last one
   and for the all-reduce. By post-validation (Qi et al. 2023, arXiv:2401.10241, section 4), rank r
   waits for the part of the norm that rank r - 1 passes on when it has its own, which arrives after
   the latency of the first stage of rank r - 1; the whole norm is looked at in the next step's
   warm-up. Steps that have to be taken back are not simulated.
3. The optimizer steps of the rank's stages, then their gathers.

A step of a training run lasts until the last rank is done: the next one begins for all at once. By
post-validation of the software (`StageCosts.post_validation`) each rank goes on by itself where a
schedule splits the backward and no stage has copies, and the time from step to step is that of the
rank that takes longest from its first action to its end: with every rank that much later in each
step, all messages are there as in the step before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parplan.errors import ParplanError
from parplan.sim.programs.arrays import ActionArrays, Codes, I
from parplan.sim.step.tape import Tape
from parplan.sim.ticks import Ints, StageTicks

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """Work of the candidates at the end of a step, in picoseconds, last axis: candidates."""

    finish: Ints
    """By rank: all of its optimizer steps and gathers."""
    shared: Sequence[tuple[int, Sequence[int]]]
    """Stages with several copies, and their ranks."""
    shared_reduce: Ints
    """By shared stage."""
    norm: Ints
    """By candidate; 0 for no norm."""
    hop: Ints
    """By rank: how long the part of the norm takes to the next one. Only by post-validation."""
    post_validation: Bools
    """By candidate."""
    staggered: Bools
    """By candidate: whether ranks begin and end steps at times of their own."""

    def ends(self, free: Ints, candidates: slice = slice(None)) -> Ints:
        """The end of every rank that is done at `free`, shape [ranks, candidates]."""
        return np.asarray(self.optimizer_starts(free, candidates) + self.finish[:, candidates])

    def optimizer_starts(self, free: Ints, candidates: slice = slice(None)) -> Ints:
        """Start times of the optimizer of every rank, shape [ranks, candidates]."""
        norm = self.norm[candidates]
        if not self.shared and not norm.any():
            return free
        free = np.array(free, dtype=np.int64)
        for (_, ranks), takes in zip(self.shared, self.shared_reduce[:, candidates], strict=True):
            free[ranks] = free[ranks].max(axis=0) + takes
        later = (norm > 0) & self.post_validation[candidates]
        free = np.where((norm > 0) & ~later, free.max(axis=0) + norm, free)
        if later.any():
            hop = self.hop[:, candidates]
            for rank in range(1, len(free)):
                passed = np.maximum(free[rank], free[rank - 1] + hop[rank - 1])
                free[rank] = np.where(later, passed, free[rank])
        return free


def step_end(tape: Tape, ticks: StageTicks, post_validation: bool) -> StepEnd:
    """Work at the end of a step on `tape`.

    Raises `ParplanError` for copies that reduce in between.
    """
    shared, shape = tape.shared_stages(), (tape.num_ranks, ticks.num_candidates)
    stages = [stage for stage, _ in shared]
    check_copies(stages, [bool(ticks.reduce_each_micro_batch[:, s].any()) for s in stages])
    own = ticks.post_validation.any(axis=1)
    staggered = np.logical_and(own, is_staggered(tape.lists, bool(shared)))
    validated_later = np.logical_or(staggered, post_validation)
    finish, hop = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    once = (ticks.optimizer + ticks.gather).T
    for stage, rank in reversed(tape.copies.tolist()):
        finish[rank] += once[stage]
        if validated_later.any():
            hop[rank] = ticks.latency[:, stage]
    return StepEnd(
        finish=finish,
        shared=shared,
        shared_reduce=ticks.reduce[:, stages].T,
        norm=ticks.norm_sync.max(axis=1) if ticks.norm_sync.any() else ticks.norm_sync[:, 0],
        hop=hop,
        post_validation=validated_later,
        staggered=staggered,
    )


def longest_ps(ends: Ints, start: Ints, first: Ints | Codes) -> int:
    """The time from its first action to its end of the rank that takes longest.

    ends: by rank. start: of every action, the lists of the ranks one after the other; `first`: the
    place of the first one of each rank. A rank without actions has no step of its own.
    """
    own = np.flatnonzero(np.diff(first))
    return int((ends[own] - start[np.asarray(first)[own]]).max(initial=0))


def is_staggered(lists: ActionArrays, has_copies: bool) -> bool:
    """Whether ranks go on by themselves with software that validates steps later."""
    return not has_copies and bool((lists.op == I).any())


def check_copies(stages: Sequence[int], reduce_each: Sequence[bool]) -> None:
    """Raise `ParplanError` if a stage with several copies reduces in every micro-batch."""
    for stage, each in zip(stages, reduce_each, strict=True):
        if each:
            raise ParplanError(
                f"reduce_each_micro_batch: stage {stage} is on several ranks, whose gradients "
                "can only be reduced together, after the last micro-batch"
            )
