"""Peak memory of the ranks of many plans at once.

As `parplan.sim.memory.peak.rank_memory` adds it up for one plan, in the same order, so that the
verdicts are equal.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import activation_peak

Ints = npt.NDArray[np.int64]


def rows_fit(
    activations: Floats, states: Floats, place: Ints, moments: Sequence[Moments], limit: float
) -> npt.NDArray[np.bool_]:
    """Whether each row fits: no rank of it needs more than `limit` bytes.

    activations: `Activations`, shape [rows, kinds, 3]. states: `State`, [rows, kinds, 5]. place:
    for each stage its kind. moments: those of every rank.
    """
    fits = np.ones(len(activations), dtype=bool)
    seen: set[tuple[tuple[int, ...], bytes]] = set()
    for rank in moments:
        kinds = tuple(int(place[stage]) for stage in rank.stages)
        if (kinds, rank.counts.tobytes()) in seen:
            continue
        seen.add((kinds, rank.counts.tobytes()))
        columns = [activations[:, k, c] for c in (0, 2, 1) for k in kinds]
        total = state_bytes(states, list(kinds)) + activation_peak(rank, columns)
        fits &= total <= limit
    return fits


def state_bytes(states: Floats, kinds: list[int]) -> Floats:
    """`RankMemory.state_bytes` of a rank with such stages, shape [rows].

    states: [rows, kinds, 5].
    """

    def total(column: int) -> Floats:
        values = np.zeros(len(states))
        for kind in kinds:
            values = values + states[:, kind, column]
        return values

    whole = [states[:, kinds, column].max(axis=1) for column in (3, 4)]
    return np.asarray((whole[0] + total(0)) + (whole[1] + total(1)) + total(2))
