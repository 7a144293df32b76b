"""Rows of a space by hand: their costs, their bounds when uneven, boxes, and what is still open."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.algorithms.exact.branch_and_bound import branch_and_bound
from parplan.planners.bounds.box_bounds import box_bounds_s, box_memory_bytes, divided
from parplan.planners.bounds.schedule_bounds import memory_bound_bytes
from parplan.planners.bounds.space_table import SpaceTable
from parplan.planners.bounds.untried_bound import Tried, open_lower_bound
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import LEAST_MEMORY, STEP_TIME
from parplan.planners.costs.minimum_tables import SLACK, RelaxedParts, _ends
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.search.exact_steps import all_steps_s
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.variants import Box, having
from parplan.sim.cost_model.stage_costs import model_costs
from parplan.sim.memory.peak import stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import schedule_key
from parplan.sim.schedules import schedule_kind
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import TORCH, Software
from parplan.sim.software.presets import preset
from parplan.sim.ticks import stage_ticks
from parplan.sim.workload import Workload
from tests.planners.spaces.test_wide_space import LLAMA, SMALL

WORK = Workload(
    model=replace(model_preset("llama3-8b"), num_layers=10),
    seq_len=2048,
    global_batch=16,
    framework=NO_OVERHEAD,
)
CLUSTER = cluster_preset("8xh100")
MOAI = preset("moai").software
FEW: dict[str, Any] = {
    "schedule": ("1f1b", "gpipe", "interleaved-1f1b", "zb-h1"),
    "num_stages": (1, 2, 4),
    "zero_stage": (0, 2, 3),
    "batch_per_device": (1, 2),
}


@pytest.mark.parametrize(
    "software",
    [Software(), TORCH, Software(recomputed_head=True), Software(sharded_in_lists=True), MOAI],
)
def test_the_costs_of_rows_are_those_of_plans(software: Software) -> None:
    work = replace(WORK, software=software)
    space = make_space(work, CLUSTER, Constraints(**FEW))
    table = SpaceTable(space, float("inf"))
    shared = SharedCosts(work, CLUSTER)
    alike: dict[object, list[int]] = {}
    for number, plan in enumerate(space):
        alike.setdefault((schedule_key(plan), plan.num_stages), []).append(number)
    for numbers in list(alike.values())[::3]:
        some = numbers[:: max(1, len(numbers) // 9)][::-1]
        plans = [space[n] for n in some]
        found = table.costs(some, plans)
        wanted = stage_ticks([shared.stages(plan).costs for plan in plans])
        for name in wanted.__dataclass_fields__:
            assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("software", [Software(), Software(recomputed_head=True), MOAI])
def test_all_steps_of_a_small_space_are_those_of_single_plans(software: Software) -> None:
    work = replace(WORK, software=software)
    space = make_space(work, CLUSTER, Constraints(**FEW, memory_ratio=0.3))
    shared = SharedCosts(work, CLUSTER)
    for ratio in (None, 0.2):
        found = all_steps_s(space, shared=shared, memory_ratio=ratio)
        ask = Evaluator(work, CLUSTER, space=space, memory_ratio=ratio or 0.3, shared=shared)
        wanted = [IMPOSSIBLE if t.step_s is None else t.step_s for t in ask.many(space)]
        assert found.tolist() == wanted
        assert 0 < sum(s < IMPOSSIBLE for s in wanted) < len(wanted)
    assert (all_steps_s(space, memory_ratio=1e-6) == IMPOSSIBLE).all()
    wide = make_space(WORK, CLUSTER, Constraints(offload_optimizer=(False, True)))
    with pytest.raises(ParplanError, match="the plans of the space have variants"):
        all_steps_s(wide)


def work_s(plan: Plan) -> float:
    """One micro-batch through all layers, without gathers and messages."""
    costs = model_costs(WORK, CLUSTER, plan)
    again = plan.recomputation != "none"
    ((block),) = [c for (_, recomputed), c in costs.blocks.items() if recomputed == again]
    layers = [costs.embedding, *[block] * 10, costs.head]
    return sum(
        c.forward_s + c.recompute_s + c.input_gradient_s + c.weight_gradient_s for c in layers
    )


@pytest.mark.parametrize("again", [False, True])
def test_an_uneven_pipeline_takes_at_least_its_share_of_all_work(again: bool) -> None:
    space = make_space(
        WORK, CLUSTER, Constraints(**FEW, uneven_stages=True, uneven_recomputation=again)
    )
    whole = sum(
        n.parameter_bytes + n.gradient_bytes + n.optimizer_bytes
        for n in stage_needs(WORK, Plan(num_stages=2, num_micro_batches=8))
    )
    ratio = 0.3 * whole / CLUSTER.accelerator.memory_bytes
    table = SpaceTable(space, ratio)
    found, even = table.uneven_bounds(), table.bounds()
    infinite = 0
    for number, plan in enumerate(space):
        if plan.num_stages == 1 and not again:
            assert found[number] == even[number]
            continue
        needs = stage_needs(WORK, plan)
        state = sum(n.parameter_bytes + n.gradient_bytes + n.optimizer_bytes for n in needs)
        if state / plan.num_stages > table.limit:
            infinite += 1
            assert found[number] == IMPOSSIBLE
            continue
        least = replace(plan, recomputation="none") if again else plan
        wanted = plan.num_micro_batches * work_s(least) / plan.num_stages
        assert found[number] == pytest.approx(wanted, rel=2e-9)
        assert found[number] < wanted
    assert 0 < infinite < len(space)


def test_the_least_memory_of_rows_is_that_of_plans() -> None:
    space = make_space(WORK, CLUSTER, Constraints(**FEW))
    found = SpaceTable(space, 0.8).memory_bounds()
    for number in range(0, len(space), 7):
        plan = space[number]
        needs = stage_needs(WORK, plan)
        kind = schedule_kind(plan.schedule)
        assert found[number] == memory_bound_bytes(kind, plan.num_stages, needs)


def test_the_least_and_the_largest_depth() -> None:
    assert _ends((None, 3, 1, 2)) == (1, None)
    assert _ends((4, 3, 8)) == (3, 8)
    assert _ends((None,)) == (None,)
    assert _ends((5,)) == (5,)
    assert _ends((None, 2)) == (2, None)
    assert SLACK == 1 - 1e-9


def test_depths_are_halved_and_the_rest_taken_apart() -> None:
    box = Box((None, 1, 2, 3, 4), (None, 2), ("fp32",), (True, False), (False,), (True,), (False,))
    assert [b.recomputed_layers for b in divided(box)] == [(1, 2), (3, 4, None)]
    two = box._replace(recomputed_layers=(3, None))
    assert [b.recomputed_layers for b in divided(two)] == [(3,), (None,)]
    one = box._replace(recomputed_layers=(2,))
    assert [b.shard_group for b in divided(one)] == [(None,), (2,)]
    assert divided(one._replace(shard_group=(2,)))[0].overlap_gradient_reduction == (True,)
    both = box._replace(gradient_dtype=("as computed", "fp32"))
    assert [b.gradient_dtype for b in divided(both)] == [("as computed",), ("fp32",)]


def test_bounds_of_boxes_are_close_to_the_least_of_their_variants() -> None:
    """No variant is below; and of boxes that differ in depth alone, the bound is that of the best
    one."""
    shared = SharedCosts(LLAMA.workload, LLAMA.cluster)
    parts = shared.parts_of(LLAMA.constraints)
    assert isinstance(parts, RelaxedParts)
    ask = Evaluator(LLAMA.workload, LLAMA.cluster, memory_ratio=1e3, shared=shared)
    rows = [
        row for row in range(0, LLAMA.num_rows, 31) if len(LLAMA.box(row).recomputed_layers) > 2
    ]
    assert len(rows) > 5
    for row in rows[:12]:
        plain, box = LLAMA.row(row), LLAMA.box(row)
        box = Box(*((values[0],) for values in box))._replace(
            recomputed_layers=box.recomputed_layers
        )
        variants = [
            having(plain, {**{n: v[0] for n, v in box._asdict().items()}, "recomputed_layers": d})
            for d in box.recomputed_layers
        ]
        least_s = min(ask.bounds(variants))
        found = float(box_bounds_s(parts, plain, [box])[0])
        assert 0.9 * least_s < found <= least_s
        kind = schedule_kind(plain.schedule)
        needs = [shared.stages(v).needs for v in variants]
        least = min(memory_bound_bytes(kind, plain.num_stages, own) for own in needs)
        bytes_found = float(box_memory_bytes(parts, plain, [box])[0])
        assert 0.5 * least < bytes_found <= least


class Known(dict[tuple[int, Box], float]):
    """Lower bounds of boxes of row 0."""

    def __init__(self, **lower_bounds: tuple[Box, float]) -> None:
        super().__init__({(0, box): lower_bound for box, lower_bound in lower_bounds.values()})


def test_what_untried_variants_may_still_reach() -> None:
    whole = SMALL.box(0)
    box = whole._replace(offload_activations=(False, True), offload_optimizer=(False,))
    single = Box(*((values[0],) for values in box))
    two = single._replace(offload_activations=(False, True))
    yes, no = (single._replace(offload_activations=(v,)) for v in (True, False))

    def lower_bound(known: Known, out: set[bool], at: float = 1.0, tried: int = 9) -> float:
        def ruled_out(plan: Plan, key: float) -> bool:
            assert key == 10.0
            return plan.offload_activations in out

        return open_lower_bound(
            Tried(SMALL, known, dict.fromkeys(range(tried)), ruled_out), 0, two, at, 10.0
        )

    assert lower_bound(Known(), set(), at=10.0) == IMPOSSIBLE
    assert lower_bound(Known(), set(), at=3.0) == 3.0
    assert lower_bound(Known(), {True, False}) == IMPOSSIBLE
    # More variants than trials: most were never asked about.
    assert lower_bound(Known(), {True, False}, tried=1) == 1.0
    assert lower_bound(Known(), {True, False}, tried=2) == IMPOSSIBLE
    both = Known(yes=(yes, 4.0), no=(no, 6.0))
    assert lower_bound(both, set()) == 4.0
    assert lower_bound(both, {True}) == 6.0
    assert lower_bound(both, set(), at=5.0) == 5.0
    assert lower_bound(Known(yes=(yes, 11.0), no=(no, 12.0)), set()) == IMPOSSIBLE
    assert lower_bound(Known(no=(no, 7.0)), {False}, tried=1) == 1.0
    assert (
        open_lower_bound(Tried(SMALL, {}, {}, lambda p, k: True), 0, None, 1.0, 2.0) == IMPOSSIBLE
    )
    assert open_lower_bound(Tried(SMALL, {}, {}, lambda p, k: False), 0, None, 1.0, 2.0) == 1.0


@pytest.mark.parametrize("goal", [STEP_TIME, LEAST_MEMORY])
def test_branch_and_bound_asks_by_bounds_and_no_more(goal: Any) -> None:
    """Whatever was asked for had a bound that is not above the best, in the order of bounds."""
    space = make_space(WORK, CLUSTER, Constraints(**FEW))
    evaluate = Evaluator(WORK, CLUSTER, space=space, goal=goal, memory_ratio=0.8)
    before = Evaluator(WORK, CLUSTER, space=space, goal=goal, memory_ratio=0.8).space_lower_bounds()
    branch_and_bound(space, evaluate, None)  # type: ignore[arg-type]
    number = {plan: n for n, plan in enumerate(space)}
    lower_bounds = [before[number[t.plan]] for t in evaluate.trials]
    assert lower_bounds == sorted(lower_bounds)
    best, seen = IMPOSSIBLE, []
    for trial, lower_bound in zip(evaluate.trials, lower_bounds, strict=True):
        assert lower_bound < best
        assert trial.fits
        best = min(best, goal.key(trial))
        seen.append(number[trial.plan])
    left = [n for n in range(len(space)) if n not in seen and before[n] < best]
    assert not any(evaluate.fits(space[n]) for n in left)
    nothing = Evaluator(WORK, CLUSTER, space=space, goal=goal, memory_ratio=1e-3)
    branch_and_bound(space, nothing, None)  # type: ignore[arg-type]
    (asked,) = nothing.trials
    needs = SpaceTable(space, 1e-3).memory_bounds()
    assert number[asked.plan] == int(np.argmin(needs))
