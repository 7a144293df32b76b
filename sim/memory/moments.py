"""Candidate moments of peak activation memory.

They follow from the rank's list alone, so that candidates with equal lists share them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parplan.sim.programs.instructions import Program, RankActions, computations


class Moments(NamedTuple):
    """Moments of one rank that no other moment exceeds in every count."""

    stages: tuple[int, ...]
    """The rank's stages."""
    counts: NDArray[np.int64]
    """A row for each moment. Columns, one for each stage: micro-batches whose activations are
    kept; of these, those between I and W; whether a backward (B) runs."""


def moments_of(program: Program) -> tuple[Moments, ...]:
    """The moments of every rank. A pair that overlaps holds what its forward makes all along."""
    return tuple(_of_rank(actions) for actions in computations(program))


def kept_of(num_micro_batches: int, one: Moments) -> Moments:
    """The moments of a rank that keeps all micro-batches, from those of one."""
    counts = one.counts.copy()
    counts[:, : len(one.stages)] *= num_micro_batches
    return Moments(one.stages, counts)


def _of_rank(actions: RankActions) -> Moments:
    stages = tuple(sorted({action.stage for action in actions}))
    place = {stage: i for i, stage in enumerate(stages)}
    n = len(stages)
    now = [0] * (3 * n)
    seen: set[tuple[int, ...]] = set()
    for stage, op, _ in actions:
        i = place[stage]
        if op == "F":
            now[i] += 1
        elif op == "I":
            now[n + i] += 1
        elif op == "B":
            now[2 * n + i] = 1
        if op in "BW":
            # Only more is held up to here since the last of these.
            seen.add(tuple(now))
            now[i] -= 1
            now[2 * n + i] = 0
        if op == "W":
            now[n + i] -= 1
    if any(now):
        seen.add(tuple(now))
    rows = np.array(sorted(seen), dtype=np.int64).reshape(len(seen), len(now))
    return Moments(stages, _largest(rows))


def _largest(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that no other row equals or exceeds everywhere."""
    rest, kept = rows[np.argsort(-rows.sum(axis=1), kind="stable")], []
    while len(rest):
        kept.append(rest[0])
        rest = rest[~(rest <= rest[0]).all(axis=1)]
    return np.array(kept, dtype=np.int64).reshape(len(kept), rows.shape[1])
