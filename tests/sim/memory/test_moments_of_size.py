"""Moments from fewer micro-batches equal those of the lists of all of them."""

import numpy as np
import pytest

from parplan.sim.memory.moments import moments_of
from parplan.sim.prediction.predict import moments_of_size
from parplan.sim.schedules import CATALOGUE, make_program, why_not
from parplan.sim.schedules.hanayo import LONGEST_START

NAMES = [name for name, kind in CATALOGUE.items() if not kind.by_times]


def _sizes(name: str, most_ranks: int) -> list[tuple[int, int, int]]:
    found = [
        (ranks, virtual, count)
        for ranks in range(1, most_ranks + 1)
        for virtual in (1, 2, 3, 4)
        for count in [*range(1, 2 * ranks + 2), ranks * (ranks + 2), 9 * ranks + 1, 24 * ranks]
    ]
    return [(p, v, m) for p, v, m in dict.fromkeys(found) if not why_not(name, p, m, v)]


@pytest.mark.parametrize("name", NAMES)
def test_moments_equal_those_of_whole_lists(name: str) -> None:
    for ranks, virtual, count in _sizes(name, most_ranks=5):
        whole = moments_of(make_program(name, ranks, count, virtual))
        fewer = moments_of_size((name, ranks, virtual, count))
        for one, other in zip(whole, fewer, strict=True):
            assert one.stages == other.stages
            assert np.array_equal(one.counts, other.counts), (ranks, virtual, count)


@pytest.mark.parametrize("name", NAMES)
def test_lists_of_many_micro_batches_are_not_needed(name: str) -> None:
    """What is made does not grow with the batch: by the sizes, not by the clock."""
    kind = CATALOGUE[name]
    for ranks, virtual in ((4, 1), (4, 2), (8, 2), (8, 4)):
        for count in (2048, 32768):
            if not why_not(name, ranks, count, virtual) and not kind.keeps_all:
                assert kind.steady(ranks, count, virtual) <= LONGEST_START * ranks < 2048
