"""Work over processes: results in order, failures as they are."""

import math

import pytest

from parplan.planners.search.workers import in_order

NUMBERS = [4.0, 1.0, 9.0, 16.0, 0.25]


@pytest.mark.parametrize(("workers", "at_a_time"), [(1, 1), (2, 1), (2, 3)])
def test_results_are_in_the_order_of_the_items(workers: int, at_a_time: int) -> None:
    with in_order(math.sqrt, NUMBERS, workers, at_a_time) as results:
        assert list(results) == [2.0, 1.0, 3.0, 4.0, 0.5]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_raised_after_the_results_before_it(workers: int) -> None:
    found = []
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):  # noqa: SIM117
        with in_order(math.sqrt, [4.0, 9.0, -1.0, 1.0], workers) as results:
            found.extend(results)
    assert found == [2.0, 3.0]


def test_nothing_is_done_for_nothing() -> None:
    with in_order(math.sqrt, [], 4) as results:
        assert list(results) == []
