"""Plans by the names of fields: what a planner of the user's own asks a space."""

from random import Random
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.wide_space import WideSpace
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload("llama3-8b", seq_len=2048, global_batch=16, framework=NO_OVERHEAD)
CLUSTER = cluster_preset("8xh100")
PLAIN = make_space(WORKLOAD, CLUSTER)
WIDE = make_space(
    WORKLOAD,
    CLUSTER,
    Constraints(num_stages=Range(max=2), offload_optimizer=(True, False), zero_stage=(0, 1)),
)


@pytest.mark.parametrize("space", [PLAIN, WIDE])
def test_the_fields_of_a_plan_find_it_again(space: Space) -> None:
    rng = Random(4)
    for _ in range(200):
        plan = space.sample(rng)
        wanted = {name: getattr(plan, name) for name in space.fields}
        assert space.nearest(wanted) == plan


def test_there_is_a_space_of_each_kind() -> None:
    assert isinstance(WIDE, WideSpace)
    assert not isinstance(PLAIN, WideSpace)
    assert set(WIDE.fields["offload_optimizer"]) == {True, False}


@pytest.mark.parametrize("space", [PLAIN, WIDE])
def test_any_values_give_a_plan_of_the_space(space: Space) -> None:
    rng = Random(5)
    for _ in range(200):
        names = [name for name in space.fields if rng.random() < 0.7]
        wanted = {name: rng.choice(space.fields[name]) for name in names}
        assert space.nearest(wanted) in space
    assert space.nearest({}) == space.nearest({})
    assert space.nearest({"tensor_parallel": 3}).tensor_parallel in (2, 4)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            {"tensor_paralel": 2},
            "unknown field of this space 'tensor_paralel'; did you mean",
        ),
        ({"tensor_parallel": "2"}, "tensor_parallel: '2' is of another type than"),
        ({"schedule": 4}, "schedule: 4 is of another type than"),
        ({"zero_stage": None}, "zero_stage: None is of another type than"),
    ],
)
def test_a_mistake_is_named(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(ParplanError, match=said):
        PLAIN.nearest(wanted)
