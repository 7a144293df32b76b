"""The integer program beside brute force: its numbers, its memory, its solutions."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.algorithms.exact import integer_program as module
from parplan.planners.algorithms.exact.integer_program import (
    _moment,
    _program,
    _solve,
    integer_program,
)
from parplan.planners.bounds.stage_memory import StageSize, StageTables
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.search.run import run_planner
from parplan.sim.memory.peak import rank_memory, stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.planners.algorithms.test_uneven_planners import BOTH, CUTS, space

BLOCKS = 7
WORKLOAD = Workload(
    model=replace(model_preset("llama3-8b"), num_layers=BLOCKS),
    seq_len=2048,
    global_batch=8,
    framework=NO_OVERHEAD,
)
CLUSTER = cluster_preset("8xa100-40gb")


def plan(schedule: str = "1f1b", virtual: int = 1, again: str = "full", zero: int = 1) -> Plan:
    return Plan(
        num_stages=2,
        virtual_stages=virtual,
        num_micro_batches=4,
        batch_per_device=1,
        data_parallel=2,
        tensor_parallel=2,
        schedule=schedule,
        recomputation=again,  # type: ignore[arg-type]
        **zero_fields(zero),  # type: ignore[arg-type]
    )


PLANS = [
    plan(),
    plan(again="selective", zero=0),
    plan("zb-h1"),
    plan(again="none", zero=2),
    plan("interleaved-1f1b", 2),
    plan("zb-v", 2, "selective"),
]


@cache
def tables_of(given: Plan) -> StageTables:
    return StageTables(WORKLOAD, CLUSTER, given)


def divisions(given: Plan) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All blocks of the stages, and how many of each are recomputed."""
    stages = given.total_stages
    recomputes = given.recomputation != "none"
    for blocks in product(range(1, BLOCKS), repeat=stages):
        if sum(blocks) == BLOCKS:
            choices = [range(n + 1) if recomputes else range(1) for n in blocks]
            yield from ((blocks, again) for again in product(*choices))


def divided(given: Plan, blocks: tuple[int, ...], again: tuple[int, ...]) -> Plan:
    recomputed = again if given.recomputation != "none" else None
    return replace(given, stage_layers=blocks, recomputed_of_stages=recomputed)


@cache
def bytes_of(given: Plan, blocks: tuple[int, ...], again: tuple[int, ...]) -> list[float]:
    """What the ranks need, as the simulator has it, but that of every stage a recomputed block is
    there while a backward runs, also where none is recomputed."""
    needs = stage_needs(WORKLOAD, divided(given, blocks, again))
    whole = stage_needs(WORKLOAD, divided(given, blocks, blocks))
    most = [
        replace(own, recomputed_bytes=other.recomputed_bytes)
        for own, other in zip(needs, whole, strict=True)
    ]
    return [rank.total_bytes for rank in rank_memory(most, tables_of(given).moments)]


def seconds_of(given: Plan, blocks: tuple[int, ...], again: tuple[int, ...]) -> list[float]:
    """One micro-batch on each stage."""
    tables, begin, found = tables_of(given), 0, []
    for stage, count in enumerate(blocks):
        size = StageSize(stage, begin, begin + count)
        found.append(tables.seconds(size, again[stage] if given.recomputation != "none" else None))
        begin += count
    return found


@pytest.mark.parametrize("given", PLANS, ids=lambda p: f"{p.schedule} {p.recomputation}")
def test_times_and_bytes_are_linear_in_blocks(given: Plan) -> None:
    program = _program(tables_of(given), BLOCKS)
    whole = list(divisions(given))
    for blocks, again in whole[:: max(1, len(whole) // 25)]:
        n, r = np.array(blocks, dtype=float), np.array(again, dtype=float)
        needs = stage_needs(WORKLOAD, divided(given, blocks, again))
        wanted = {
            "seconds": seconds_of(given, blocks, again),
            "saved": [need.saved_bytes for need in needs],
            "whole": [need.recomputed_stage_bytes for need in needs],
            "state": [
                need.parameter_bytes
                + need.gradient_bytes
                + need.optimizer_bytes
                + need.gathered_parameter_bytes
                + need.gathered_gradient_bytes
                for need in needs
            ],
        }
        for name, values in wanted.items():
            linear = getattr(program, name)
            found = linear.fixed + n * linear.block + r * linear.recomputed
            assert found == pytest.approx(values, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("given", PLANS, ids=lambda p: f"{p.schedule} {p.recomputation}")
def test_the_fullest_moment_is_the_memory_of_the_rank(given: Plan) -> None:
    program = _program(tables_of(given), BLOCKS)
    whole = list(divisions(given))
    for blocks, again in whole[:: max(1, len(whole) // 25)]:
        x = np.array([*blocks, *again, 0.0])
        for rank, moments in zip(
            bytes_of(given, blocks, again), program.tables.moments, strict=True
        ):
            rows = [_moment(program, moments.stages, c) for c in moments.counts.tolist()]
            assert max(float(row @ x) + fixed for row, fixed in rows) == pytest.approx(rank)


@cache
def objective(given: Plan, blocks: tuple[int, ...], again: tuple[int, ...]) -> float:
    seconds = seconds_of(given, blocks, again)
    ranks = [sum(seconds[s] for s in m.stages) for m in tables_of(given).moments]
    return max(1, given.num_micro_batches - 1) * max(ranks) + sum(seconds)


@pytest.mark.parametrize("given", PLANS, ids=lambda p: f"{p.schedule} {p.recomputation}")
@pytest.mark.parametrize("mode", ["free", "all or none", "given blocks"])
def test_the_solution_is_that_of_brute_force(given: Plan, mode: str) -> None:
    if given.total_stages > 2 and mode == "free":
        pytest.skip("thousands of divisions")
    recomputes = given.recomputation != "none"
    tables = tables_of(given)
    even = given.layers_of_stages(BLOCKS) if mode == "given blocks" else None
    every = [
        (blocks, again)
        for blocks, again in divisions(given)
        if even in (None, blocks)
        and (mode != "all or none" or again == (blocks if recomputes else again))
    ]
    by_bytes = sorted(every, key=lambda pair: max(bytes_of(given, *pair)))
    for share in (0.0, 0.3, 1.0):
        at = by_bytes[int(share * (len(by_bytes) - 1))]
        limit = max(bytes_of(given, *at)) * (1 + 1e-6)
        program = _program(tables, BLOCKS)
        solved = _solve(program, BLOCKS, limit, even, free=mode != "all or none" and recomputes)
        fitting = [pair for pair in every if max(bytes_of(given, *pair)) <= limit]
        best = min(objective(given, *pair) for pair in fitting)
        assert solved is not None
        blocks, again = solved
        assert (blocks, again) in fitting
        assert best <= objective(given, blocks, again) <= best * 1.0011
    assert _solve(program, BLOCKS, 0.1 * limit, even, free=recomputes) is None


def test_a_plan_that_is_too_large_is_tried_with_less_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shares of the memory are tried until a plan fits; the program has no say of what is not
    linear."""
    limits: list[float] = []

    def solve(program: object, blocks: int, limit: float, even: object, *, free: bool) -> object:
        limits.append(limit)
        # All on the last stage, which does not fit, and then even.
        return ((1, 1, 1, 9) if len(limits) < 3 else (3, 3, 3, 3)), (0, 0, 0, 0)

    monkeypatch.setattr(module, "_solve", solve)
    ratio = 0.45
    report = run_planner("integer-program", CUTS, memory_ratio=ratio)
    limit = ratio * CLUSTER.accelerator.memory_bytes
    assert limits == pytest.approx([limit, 0.98 * limit, 0.95 * limit])
    assert [t.plan.stage_layers for t in report.trials] == [(1, 1, 1, 9), (3, 3, 3, 3)]
    assert [t.fits for t in report.trials] == [False, True]


def test_what_the_space_has_free_is_free() -> None:
    even = run_planner("integer-program", space(CUTS.workload.model, zero_stage=(1,)))
    assert all(t.plan.stage_layers is None for t in even.trials)
    cut = run_planner("integer-program", CUTS).trials
    assert all(t.plan.stage_layers is not None for t in cut)
    assert all(t.plan.recomputed_of_stages is None for t in cut)
    again = space(
        *(BOTH.workload.model,),
        schedule=("1f1b",),
        zero_stage=(1,),
        recomputation=("full", "none"),
        uneven_recomputation=True,
    )
    asked = run_planner("integer-program", again, memory_ratio=0.5).trials
    assert all(t.plan.stage_layers is None for t in asked)
    some = [t.plan for t in asked if t.plan.recomputation != "none"]
    assert some
    assert all(p.recomputed_of_stages is not None for p in some)
    assert all(t.plan.recomputed_of_stages is None for t in asked if t.plan not in some)


def test_blocks_of_two_kinds_are_left_as_they_are() -> None:
    model = replace(model_preset("mixtral-8x7b"), num_layers=8)
    moe = replace(model, moe=replace(model.moe, first_dense_layers=4)) if model.moe else model
    where = space(moe, schedule=("1f1b",), zero_stage=(1,), uneven_stages=True)
    if len(set(moe.layer_kinds)) == 1:
        pytest.skip("all blocks are alike")
    for trial in run_planner("integer-program", where).trials:
        assert trial.plan.stage_layers is None


def test_rows_that_cannot_be_better_are_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    where = space(
        CUTS.workload.model,
        num_stages=(1, 2, 4),
        batch_per_device=(1, 4),
        schedule=("1f1b",),
        uneven_stages=True,
    )
    report = run_planner("integer-program", where)
    assert report.best is not None
    evaluate = Evaluator(where.workload, where.cluster, space=where)
    lower_bounds = evaluate.uneven_lower_bounds()
    solved: list[Plan] = []
    own = module._solutions

    def counted(here: object, given: Plan, limit: float) -> Iterator[Plan]:
        solved.append(given)
        return own(here, given, limit)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_solutions", counted)
    integer_program(where, evaluate, None)  # type: ignore[arg-type]
    best_s = report.best.step_s or 0.0
    assert len(solved) < 0.6 * len(where)
    # Whatever was not solved had a lower_bound that is not below the best.
    left = [lower_bounds[row] for row in range(len(where)) if where.row(row) not in solved]
    assert min(left) >= best_s
