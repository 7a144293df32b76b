"""Moves of single blocks, the descent by them, and the order in which rows are taken."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parplan.planners.algorithms.exact import dynamic_programming as module
from parplan.planners.algorithms.exact.dynamic_programming import (
    best_cuts,
    dynamic_programming,
    promising,
)
from parplan.planners.algorithms.exact.split import (
    _seconds,
    balanced,
    descend,
    even_load,
    improve_split,
    moves,
)
from parplan.planners.bounds.stage_memory import StageSize, StageTables
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.search.run import run_planner
from parplan.sim.costs import LayerCosts
from parplan.sim.plan import Plan
from tests.planners.algorithms.test_split import CLUSTER, PLAN, WORKLOAD
from tests.planners.algorithms.test_uneven_planners import CUTS, ask, space, splits


def test_a_move_takes_one_block_from_where_there_are_several() -> None:
    assert list(moves((2, 1, 3))) == [(1, 2, 3), (1, 1, 4), (3, 1, 2), (2, 2, 2)]
    assert list(moves((1, 1))) == []
    assert list(moves((4,))) == []


def test_the_descent_takes_the_best_move_until_none_is_better() -> None:
    """On numbers: the farther from (3, 4, 5), the worse; of each round all moves are asked for."""
    rounds: list[int] = []

    class Ask:
        def many(self, plans: Sequence[Plan]) -> list[Trial]:
            rounds.append(len(plans))
            return [self.trial(plan) for plan in plans]

        def trial(self, plan: Plan) -> Trial:
            far = sum(
                abs(a - b) for a, b in zip(plan.layers_of_stages(12), (3, 4, 5), strict=False)
            )
            return Trial(plan=plan, step_s=1.0 + far)

        def energy(self, trial: Trial) -> float:
            return trial.step_s or 0.0

    ask: Any = Ask()
    start = Plan(num_stages=3, num_micro_batches=4, stage_layers=(6, 5, 1))
    found = descend(ask, ask.trial(start), 12)
    assert found.plan == replace(start, stage_layers=(3, 4, 5))
    # (6, 5, 1) has four moves; four rounds get it to the best; a fifth finds nothing better.
    assert rounds == [4, 6, 6, 6, 6]
    alone = ask.trial(Plan(num_micro_batches=4))
    assert descend(ask, alone, 12) == alone


def test_the_balanced_split_is_of_all_that_layers_take() -> None:
    """Recomputed blocks take their forward twice; the last stage has the head beside."""
    found = balanced(WORKLOAD, CLUSTER, PLAN).stage_layers
    tables = StageTables(WORKLOAD, CLUSTER, PLAN)
    limit = 1e15
    assert found is not None
    by_tables = best_cuts(tables, 32, limit)
    assert by_tables is not None

    def slowest(split: tuple[int, ...]) -> float:
        ends = np.cumsum(split).tolist()
        sizes = [
            StageSize(i, end - n, end) for i, (end, n) in enumerate(zip(ends, split, strict=True))
        ]
        return max(map(tables.seconds, sizes))

    assert slowest(found) == pytest.approx(slowest(by_tables), rel=0.02)
    layer = LayerCosts(forward_s=1.0, input_gradient_s=2.0, weight_gradient_s=4.0, recompute_s=8.0)
    assert _seconds(layer) == 15.0


def test_splits_are_tried_within_the_budget() -> None:
    for evaluations in (1, 30):
        found = improve_split(WORKLOAD, CLUSTER, PLAN, evaluations=evaluations)
        assert found.fits
    first = improve_split(WORKLOAD, CLUSTER, PLAN, evaluations=1)
    assert first.plan.stage_layers is None
    # Both begins are tried: the even one and the balanced one.
    tight = improve_split(WORKLOAD, CLUSTER, PLAN, memory_ratio=1e-3, evaluations=2)
    assert not tight.fits
    assert even_load([1.0] * 5, 9.0, 9.0, 1) == [5]


def rows_of(even: list[float], uneven: list[float], *, is_uneven: bool) -> list[int]:
    where: Any = SimpleNamespace(constraints=SimpleNamespace(is_uneven=is_uneven))
    evaluate: Any = SimpleNamespace(
        uneven_lower_bounds=lambda: np.array(uneven), space_lower_bounds=lambda: np.array(even)
    )
    return promising(where, evaluate)


def test_rows_come_by_both_bounds_in_turn() -> None:
    inf = float("inf")
    even, uneven = [5.0, inf, 3.0, 4.0, inf], [1.0, 0.5, 0.9, inf, 0.7]
    # By the even plans 2, 3, 0; by the uneven ones 1, 4, 2, 0; 3 cannot fit.
    assert rows_of(even, uneven, is_uneven=True) == [2, 1, 4, 0]
    assert rows_of(even, uneven, is_uneven=False) == [1, 4, 2, 0]
    assert rows_of([], [], is_uneven=True) == []


@pytest.mark.parametrize("blocks", [7, 8])
def test_the_best_cuts_are_those_of_brute_force(blocks: int) -> None:
    where = space(
        *(replace(CUTS.workload.model, num_layers=blocks),),
        schedule=("1f1b",),
        recomputation=("full",),
        zero_stage=(1,),
        uneven_stages=True,
    )
    plan = where[0]
    tables = StageTables(where.workload, where.cluster, plan)

    def stages(split: tuple[int, ...]) -> list[StageSize]:
        ends = np.cumsum(split).tolist()
        return [StageSize(i, end - split[i], end) for i, end in enumerate(ends)]

    every = splits(blocks, 4)
    peaks = {split: max(map(tables.peak_bytes, stages(split))) for split in every}
    slowest = {split: max(map(tables.seconds, stages(split))) for split in every}
    for limit in sorted(set(peaks.values()))[::3]:
        found = best_cuts(tables, blocks, limit)
        assert found is not None
        assert peaks[found] <= limit
        assert slowest[found] == min(s for split, s in slowest.items() if peaks[split] <= limit)
    assert best_cuts(tables, blocks, 0.999 * min(peaks.values())) is None


def test_stages_that_share_a_rank_are_not_held_to_the_limit() -> None:
    where = space(
        replace(CUTS.workload.model, num_layers=8),
        num_stages=(2,),
        schedule=("interleaved-1f1b",),
        virtual_stages=(2,),
        zero_stage=(1,),
        recomputation=("none",),
        uneven_stages=True,
    )
    tables = StageTables(where.workload, where.cluster, where[0])
    assert best_cuts(tables, 8, 1.0) is not None
    report = run_planner("dynamic-programming", where)
    assert report.best is not None
    assert report.best.plan.virtual_stages == 2


def test_every_row_is_cut_and_the_better_ones_improved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The even plan and its best cuts are asked for; a cut that is better than all before goes
    downhill; rows whose bound is not below the best are left out."""
    where = space(
        CUTS.workload.model,
        num_stages=(2, 4),
        schedule=("1f1b", "gpipe"),
        zero_stage=(1,),
        recomputation=("none",),
        uneven_stages=True,
    )
    started: list[Trial] = []
    own = module.descend

    def noted(evaluate: Evaluator, trial: Trial, layers: int) -> Trial:
        assert layers == 12
        before = [t.step_s for t in evaluate.trials if t.step_s and t.plan != trial.plan]
        assert trial.step_s is not None
        assert trial.step_s < min(before)
        started.append(trial)
        return own(evaluate, trial, layers)

    monkeypatch.setattr(module, "descend", noted)
    evaluate = ask(where, 0.8)
    dynamic_programming(where, evaluate, None)  # type: ignore[arg-type]
    lower_bounds = evaluate.uneven_lower_bounds()
    best_s = min(t.step_s for t in evaluate.trials if t.step_s is not None)
    tried = {t.plan for t in evaluate.trials}
    for row in range(len(where)):
        plan = where.row(row)
        assert (plan in tried) or lower_bounds[row] >= best_s
        if plan in tried and plan.num_stages > 1:
            limit = evaluate.memory_limit_bytes
            cuts = best_cuts(StageTables(where.workload, where.cluster, plan), 12, limit)
            if cuts not in (None, plan.layers_of_stages(12)):
                assert replace(plan, stage_layers=cuts) in tried
    assert started
