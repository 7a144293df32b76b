"""The steps of a whole space as an array are those of exhaustive search."""

import pytest

from parplan.errors import ParplanError
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.search.exact_steps import all_steps_s
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from tests.planners.bounds.test_space_table import space_of


@pytest.mark.parametrize(
    ("model", "cluster", "batch"), [("llama3-8b", "8xh100", 16), ("mixtral-8x7b", "8xh100", 8)]
)
def test_every_step_is_that_of_exhaustive_search(model: str, cluster: str, batch: int) -> None:
    space = space_of(model, cluster, batch)
    shared = SharedCosts(space.workload, space.cluster)
    every = exhaustive(space.workload, space.cluster, list(space))
    expected = [float("inf") if t.step_s is None else t.step_s for t in every.trials]
    assert all_steps_s(space).tolist() == expected
    assert all_steps_s(space, shared=shared, kernel="numpy").tolist() == expected
    none = all_steps_s(space, shared=shared, memory_ratio=0.001)
    assert set(none.tolist()) == {float("inf")}


def test_variants_are_too_many() -> None:
    plain = space_of("llama3-8b", "8xh100", 16)
    wide = make_space(plain.workload, plain.cluster, Constraints(offload_optimizer=(False, True)))
    with pytest.raises(ParplanError, match="the plans of the space have variants"):
        all_steps_s(wide)
