"""Spaces at their edges: what only a batch, a machine or a field of an odd size shows."""

from dataclasses import replace

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.ap.candidates import ap_candidates, pipelines
from parplan.planners.ap.log import compile_time, cost_time
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.layouts import Ordering
from parplan.planners.spaces.make import full_candidates, make_space
from parplan.planners.spaces.options import SCHEDULES, Options
from parplan.planners.spaces.space import point_of
from parplan.planners.spaces.variants import Choices
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

SIX = replace(model_preset("llama3-8b"), num_layers=6)


def workload(global_batch: int) -> Workload:
    return Workload(model=SIX, seq_len=1024, global_batch=global_batch, framework=NO_OVERHEAD)


def test_times_are_logged_in_milliseconds() -> None:
    assert cost_time(1.5).endswith("= 1500 [ms]")
    assert compile_time(2.0004).endswith("= 2000 [ms]")


def test_a_device_has_a_sequence_at_least() -> None:
    plans = ap_candidates(workload(8), cluster_preset("16xh100"), Options(), "24.5")
    assert {plan.batch_per_device for plan in plans if plan.num_stages == 1} == {1}


def test_stages_divide_the_accelerators() -> None:
    nodes = cluster_preset("16xh100")
    odd = replace(nodes, num_nodes=6, tiers=(replace(nodes.tiers[-1], size=6),))
    assert {stages for stages, _, _ in pipelines(workload(48), odd, Options())} == {2}


@pytest.mark.parametrize("percent", [0.5, 1, 100])
def test_any_share_of_the_memory_may_be_used(percent: float) -> None:
    assert Options(memory_ratio_percent=percent).memory_ratio_percent == percent


def test_gradients_are_reduced_beside_the_backward_unless_asked_for() -> None:
    cluster = cluster_preset("8xh100")
    choices = Choices(workload(16), cluster, Constraints())
    for plan in make_space(workload(16), cluster, Constraints()):
        assert all(own.overlap_gradient_reduction for own in choices.variants(plan))


def test_the_nearest_ordering_has_the_same_name() -> None:
    space = make_space(workload(16), cluster_preset("8xh100"), Constraints())
    plan = next(p for p in space if p.schedule == "interleaved-1f1b" and p.num_stages == 2)
    point = point_of(plan)
    wanted = point._replace(ordering=Ordering("interleaved-1f1b", 64))
    assert point.ordering.virtual_stages < 64
    assert space.nearest(wanted).schedule == "interleaved-1f1b"


def test_what_differs_from_stage_to_stage_belongs_where_it_is_allowed() -> None:
    cluster, plan = cluster_preset("8xh100"), None
    for uneven in (False, True):
        space = make_space(workload(16), cluster, Constraints(uneven_stages=uneven))
        plan = next(p for p in space if p.num_stages == 2 and p.virtual_stages == 1)
        assert plan in space
        own = replace(plan, stage_layers=(2, 4))
        assert (own in space) == uneven
        assert replace(own, recomputed_of_stages=(1, 0)) not in space


@pytest.mark.parametrize(("stages", "depths"), [(1, 5), (2, 2), (3, 1), (4, 1), (6, 0)])
def test_stages_are_recomputed_up_to_the_blocks_of_the_longest(stages: int, depths: int) -> None:
    allowed = Constraints(recomputed_layers=Range(min=1))
    choices = Choices(workload(16), cluster_preset("8xh100"), allowed)
    assert choices._depths(stages) == (None, *range(1, depths + 1))


def test_variants_are_counted_plan_by_plan() -> None:
    allowed = Constraints(
        recomputed_layers=Range(min=1), shard_group=Range(min=1), zero_stage=(0, 1, 3)
    )
    space = make_space(workload(32), cluster_preset("16xh100"), allowed)
    for group in space.groups[::7]:
        counts = space.choices.counts(group)
        plans = [group.plan(number) for number in range(len(counts))]
        assert counts.tolist() == [len(list(space.choices.variants(plan))) for plan in plans]


def test_plans_are_plans() -> None:
    space = make_space(workload(16), cluster_preset("8xh100"), Constraints())
    assert "1f1b" not in space
    assert Plan(num_stages=7) not in space


def test_options_are_those_of_advanced_parallelization_unless_given() -> None:
    assert (Options().memory_ratio_percent, Options().workers) == (80.0, 16)
    with pytest.raises(ParplanError, match="memory ratio: must be above 0"):
        Options(memory_ratio_percent=-1.0)


def test_auto_is_auto_wherever_the_word_comes_from() -> None:
    auto = "".join(("au", "to"))
    names = ("num_stages", "num_micro_batches", "activation_recomputation", "distribute_parameter")
    own = Options(**dict.fromkeys(names, auto))
    for made in (ap_candidates, lambda *asked: full_candidates(*asked[:3])):
        asked = workload(16), cluster_preset("8xh100")
        assert made(*asked, own, "24.5") == made(*asked, Options(), "24.5")


def test_full_candidates_have_one_chunk_and_every_schedule_of_one() -> None:
    plans = full_candidates(workload(16), cluster_preset("8xh100"), Options())
    assert {plan.virtual_stages for plan in plans} == {1}
    assert {plan.schedule for plan in plans if plan.num_stages > 1} == set(SCHEDULES)


def test_a_degree_that_is_not_allowed_hides_no_larger_one() -> None:
    allowed = Constraints(context_parallel=(1, 4), num_stages=(1, 4), tensor_parallel=(1,))
    space = make_space(workload(16), cluster_preset("16xh100"), allowed)
    degrees = {(plan.context_parallel, plan.num_stages) for plan in space}
    assert degrees == {(1, 1), (1, 4), (4, 1), (4, 4)}


def test_groups_of_shards_are_neither_single_nor_all_replicas() -> None:
    choices = Choices(workload(16), cluster_preset("8xh100"), Constraints(shard_group=Range(min=1)))
    assert choices._groups(8) == (None, 2, 4)
    assert choices._groups(1) == (None,)
