"""The plan that is told of where none fits."""

from random import Random

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.everything import everything
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.workload import Workload


@pytest.mark.parametrize(("model", "cluster"), [("llama3-70b", "2xh100"), ("gpt3-175b", "4xh100")])
def test_the_leanest_plan_needs_no_more_than_others(model: str, cluster: str) -> None:
    workload = Workload(model=model_preset(model), seq_len=2048, global_batch=8)
    own = cluster_preset(cluster)
    space = make_space(workload, own, everything(workload, own))
    one = Evaluator(workload, own, memory_ratio=0.8, space=space)
    least = one.peak_bytes(one.leanest())
    assert least > 0.8 * own.accelerator.memory_bytes
    rng = Random(1)
    assert all(one.peak_bytes(space.sample(rng)) >= least for _ in range(100))
