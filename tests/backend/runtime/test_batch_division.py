"""Global batches of any size are divided exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.backend.runtime.batch_division import divide
from parplan.errors import ParplanError
from parplan.sim.plan import Plan
from parplan.sim.schedules import why_not


@given(
    batch=st.integers(1, 70),
    replicas=st.integers(1, 5),
    count=st.integers(1, 8),
    size=st.integers(1, 6),
)
def test_every_row_counts_the_same_once(batch: int, replicas: int, count: int, size: int) -> None:
    plan = Plan(data_parallel=replicas, num_micro_batches=count, batch_per_device=size)
    parts = [divide(batch, plan, replica) for replica in range(replicas)]
    assert len({(part.micro_batches, len(part.rows)) for part in parts}) == 1
    share = dict.fromkeys(range(batch), Fraction(0))
    for part in parts:
        rows = len(part.rows) // part.micro_batches
        for index, weight in enumerate(part.weights):
            for row in part.rows[index * rows : (index + 1) * rows]:
                # The mean of a micro-batch, weighted, averaged over the replicas.
                share[row] += Fraction(weight).limit_denominator(10_000) / rows / replicas
    assert set(share.values()) == {Fraction(1, batch)}
    assert sum(w > 0 for part in parts for w in part.weights) == parts[0].num_parts


def test_schedules_get_a_number_of_micro_batches_that_they_have() -> None:
    plan = Plan(
        num_stages=4,
        virtual_stages=2,
        data_parallel=2,
        num_micro_batches=8,
        schedule="interleaved-1f1b",
    )
    found = divide(11, plan, 1)
    assert not why_not(plan.schedule, 4, found.micro_batches, 2)
    assert found.num_parts == 11


def test_an_empty_batch() -> None:
    with pytest.raises(ParplanError, match="batch of 0: there is nothing to compute"):
        divide(0, Plan(), 0)
