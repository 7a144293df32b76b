"""Plans in words."""

from dataclasses import replace

import pytest

from parplan.planners.explain.plan_words import SELECTIVE_WORDS, plan_words
from parplan.planners.spaces.recomputed import RECOMPUTED, recomputed_by
from parplan.sim.plan import Plan

PLAN = Plan(data_parallel=8, num_micro_batches=2)


@pytest.mark.parametrize("name", RECOMPUTED)
def test_what_is_recomputed_has_a_name(name: str) -> None:
    level, ops = recomputed_by(name)
    words = plan_words(replace(PLAN, recomputation=level, recomputed_ops=ops))
    said = {"none": "no recomputation", "full": "full recomputation"}.get(level)
    of = SELECTIVE_WORDS.get(name, "of attention")
    assert words.endswith(f" · {said or f'selective recomputation {of}'}")


def test_operations_without_a_name_are_listed() -> None:
    plan = replace(PLAN, recomputation="selective", recomputed_ops=("rotary", "mlp gate"))
    assert plan_words(plan).endswith(" · selective recomputation of rotary + mlp gate")


def test_layers_are_those_of_each_stage_of_a_pipeline() -> None:
    level, ops = recomputed_by("between products")
    plan = replace(PLAN, recomputation=level, recomputed_ops=ops, recomputed_layers=3)
    assert plan_words(plan).endswith(" · selective recomputation between products in 3 layers")
    staged = replace(plan, num_stages=2, data_parallel=4)
    assert plan_words(staged).endswith("between products in 3 layers of each stage")
