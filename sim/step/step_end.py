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
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parplan.errors import ParplanError
from parplan.sim.step.tape import Tape
from parplan.sim.ticks import Ints, StageTicks


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
    post_validation: bool

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
        if not self.post_validation:
            return np.where(norm > 0, free.max(axis=0) + norm, free)
        hop = self.hop[:, candidates]
        for rank in range(1, len(free)):
            passed = np.maximum(free[rank], free[rank - 1] + hop[rank - 1])
            free[rank] = np.where(norm > 0, passed, free[rank])
        return free


def step_end(tape: Tape, ticks: StageTicks, post_validation: bool) -> StepEnd:
    """Work at the end of a step on `tape`.

    Raises `ParplanError` for copies that reduce in between.
    """
    shared, shape = tape.shared_stages(), (tape.num_ranks, ticks.num_candidates)
    stages = [stage for stage, _ in shared]
    check_copies(stages, [bool(ticks.reduce_each_micro_batch[:, s].any()) for s in stages])
    finish, hop = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    once = (ticks.optimizer + ticks.gather).T
    for stage, rank in reversed(tape.copies.tolist()):
        finish[rank] += once[stage]
        if post_validation:
            hop[rank] = ticks.latency[:, stage]
    return StepEnd(
        finish=finish,
        shared=shared,
        shared_reduce=ticks.reduce[:, stages].T,
        norm=ticks.norm_sync.max(axis=1) if ticks.norm_sync.any() else ticks.norm_sync[:, 0],
        hop=hop,
        post_validation=post_validation,
    )


def check_copies(stages: Sequence[int], reduce_each: Sequence[bool]) -> None:
    """Raise `ParplanError` if a stage with several copies reduces in every micro-batch."""
    for stage, each in zip(stages, reduce_each, strict=True):
        if each:
            raise ParplanError(
                f"reduce_each_micro_batch: stage {stage} is on several ranks, whose gradients "
                "can only be reduced together, after the last micro-batch"
            )
