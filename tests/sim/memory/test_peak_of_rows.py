"""Verdicts on the memory of many plans at once: those of single plans."""

import numpy as np
import pytest

from parplan.sim.memory.held_bytes import HeldBytes, held_over, highest_bytes
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.peak import (
    Activations,
    StageNeeds,
    State,
    activation_bytes,
    measured_needs,
    rank_memory,
)
from parplan.sim.memory.peak_of_rows import rows_fit
from parplan.sim.programs.instructions import computations
from parplan.sim.schedules import make_program

ROWS = 200


@pytest.mark.parametrize(
    ("schedule", "virtual", "place"),
    [
        ("gpipe", 1, (0, 1, 1, 2)),
        ("1f1b", 1, (0, 1, 1, 2)),
        ("zb-h1", 1, (0, 1, 2, 3)),
        ("interleaved-1f1b", 2, (0, 1, 1, 1, 1, 1, 1, 2)),
        ("zb-v", 2, (0, 1, 2, 2, 1, 1, 2, 3)),
    ],
)
def test_many_plans_fit_where_each_fits_alone(
    schedule: str, virtual: int, place: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(11)
    kinds = max(place) + 1
    activations = rng.exponential(1.0, (ROWS, kinds, len(Activations._fields)))
    states = rng.exponential(3.0, (ROWS, kinds, len(State._fields)))
    moments = moments_of(make_program(schedule, 4, 8, virtual))
    totals = []
    for row in range(ROWS):
        needs = [
            StageNeeds(
                **Activations(*activations[row, kind].tolist())._asdict(),
                **State(*states[row, kind].tolist())._asdict(),
            )
            for kind in place
        ]
        totals.append(max(rank.total_bytes for rank in rank_memory(needs, moments)))
    # The limits are peaks themselves, so that a last bit more would be seen.
    for limit in sorted(totals)[:: ROWS // 8]:
        found = rows_fit(activations, states, np.array(place), moments, limit)
        assert found.tolist() == [total <= limit for total in totals]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
def test_the_peak_of_the_moments_is_that_of_the_actions_one_after_the_other(schedule: str) -> None:
    program = make_program(schedule, 3, 7)
    sizes = {"recomputed_bytes": 2.0, "recomputed_stage_bytes": 5.0}
    states = dict.fromkeys(State._fields, 0.0)
    needs = [StageNeeds(saved_bytes=3.0 + s, **sizes, **states) for s in range(3)]
    for actions, rank in zip(
        computations(program), rank_memory(needs, moments_of(program)), strict=True
    ):
        running = max(own for _, own, _ in activation_bytes(actions, needs))
        assert running == rank.activation_bytes


def test_what_is_held_by_hand() -> None:
    parts = [HeldBytes(change=4.0, peak=6.0), HeldBytes(change=-3.0, peak=1.0)]
    assert list(held_over(parts, 10.0)) == [(16.0, 14.0), (15.0, 11.0)]
    assert highest_bytes(parts, 10.0) == 16.0
    assert highest_bytes([HeldBytes(change=-2.0, peak=-1.0)], 10.0) == 10.0
    assert highest_bytes([], 10.0) == 10.0


def test_a_measured_stage_holds_four_copies_of_its_parameters() -> None:
    (memory,) = rank_memory(
        [measured_needs(parameter_bytes=100.0, saved_bytes=7.0)],
        moments_of(make_program("gpipe", 1, 3)),
    )
    assert (memory.state_bytes, memory.activation_bytes) == (400.0, 21.0)
