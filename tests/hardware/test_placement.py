"""Placements of ranks: every rank has its place, every group its ranks."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.network.placement import AXES, Placement


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    order = draw(st.permutations(AXES))[: draw(st.integers(1, len(AXES)))]
    sizes = draw(st.lists(st.integers(1, 4), min_size=len(order), max_size=len(order)))
    return Placement(order=tuple(order), sizes=tuple(sizes))


@given(placements())
def test_every_rank_has_one_place(placement: Placement) -> None:
    places = [placement.coordinates_of(rank) for rank in range(placement.num_ranks)]
    assert [placement.rank_of(place) for place in places] == list(range(placement.num_ranks))
    assert len({tuple(place.items()) for place in places}) == placement.num_ranks


@given(placements(), st.data())
def test_groups_hold_each_rank_once(placement: Placement, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.sampled_from(placement.order), unique=True))
    groups = placement.groups(*axes)
    assert sorted(rank for group in groups for rank in group) == list(range(placement.num_ranks))
    for group in groups:
        assert len(group) == len(groups[0])
        fixed = [
            {a: c for a, c in placement.coordinates_of(rank).items() if a not in axes}
            for rank in group
        ]
        assert all(place == fixed[0] for place in fixed)


@given(placements())
def test_neighbours_are_one_step_away(placement: Placement) -> None:
    axis = placement.order[-1]
    for rank in range(placement.num_ranks):
        before, after = placement.neighbours(rank, axis)
        if after is not None:
            assert placement.neighbours(after, axis)[0] == rank
        own = placement.coordinates_of(rank)[axis]
        assert (before is None, after is None) == (own == 0, own == placement.size(axis) - 1)


def test_every_order_places_the_same_number_of_ranks() -> None:
    for order in permutations(("tensor", "data", "pipeline")):
        placement = Placement(order=order, sizes=(2, 3, 4))
        corner = {axis: placement.size(axis) - 1 for axis in order}
        assert placement.rank_of(corner) == placement.num_ranks - 1


def test_the_usual_order() -> None:
    placement = Placement(order=("tensor", "data", "pipeline"), sizes=(2, 3, 2))
    assert placement.groups("tensor")[0] == (0, 1)
    assert placement.groups("data")[:2] == ((0, 2, 4), (1, 3, 5))
    assert placement.neighbours(1) == (None, 7)
    assert placement.neighbours(7) == (1, None)
    assert placement.group(5, "tensor", "data") == (0, 1, 2, 3, 4, 5)
    assert placement.size("context") == 1


@pytest.mark.parametrize(
    ("order", "sizes", "message"),
    [
        (("tensor", "tensor"), (2, 2), "order: 'tensor' is given more than once"),
        (("tensor", "model"), (2, 2), "order: unknown axis 'model'; known: tensor, context"),
        (("tensor", "data"), (2,), "2 axes need as many, got 1"),
        (("tensor", "data"), (2, 0), "sizes: data must be 1 or more, got 0"),
    ],
)
def test_a_wrong_placement_is_refused(
    order: tuple[str, ...], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ParplanError, match=message):
        Placement(order=order, sizes=sizes)


def test_places_outside_are_refused() -> None:
    placement = Placement(order=("tensor", "data"), sizes=(2, 2))
    with pytest.raises(ParplanError, match="rank 4: the placement has ranks 0 to 3"):
        placement.coordinates_of(4)
    with pytest.raises(ParplanError, match="tensor coordinate 2: the axis has 0 to 1"):
        placement.rank_of({"tensor": 2})
    with pytest.raises(ParplanError, match="unknown axis 'rows'"):
        placement.groups("rows")
