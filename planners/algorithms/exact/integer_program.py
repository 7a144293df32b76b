"""Integer programming over what each stage has: how many blocks, and how many are recomputed.

For one layout and schedule, with n blocks on each stage, r of them recomputed, all whole numbers:
minimise (m - 1) times the slowest rank plus one pass through all stages, where seconds and bytes
are linear in n and r, and no rank exceeds its memory at any moment of its list. Solved by HiGHS
(Huangfu and Hall 2018, Math. Prog. Comp. 10) through `scipy.optimize.milp`; the solution is timed
exactly like any plan. As Checkmate (Jain et al. 2020, arXiv:1910.02653) chooses what to recompute.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from parplan.planners.algorithms.exact.dynamic_programming import promising
from parplan.planners.bounds.stage_memory import StageSize, StageTables
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.space import Space
from parplan.sim.plan import Plan

Floats = npt.NDArray[np.float64]

TIGHTER = (1.0, 0.98, 0.95)
"""Shares of the memory that are tried: what is not linear (one layer whole at a time) may exceed
it."""
NODES = 200
"""Of the branch and bound in the solver; a limit of time would not be repeatable."""


def integer_program(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Solve the program of every plan of the space, the most promising first.

    Blocks are free where the space has uneven stages, recomputation where it has that; where it has
    neither, or where blocks are not all alike, plans are tried as they are. Nothing depends on
    `rng`.
    """
    lower_bounds = evaluate.uneven_lower_bounds()
    best = IMPOSSIBLE
    for row in promising(space, evaluate):
        if lower_bounds[row] >= best:
            continue
        for plan in _solutions(space, space.row(row), evaluate.memory_limit_bytes):
            trial = evaluate(plan)
            best = min(best, evaluate.goal.key(trial))
            if trial.fits:
                break
    if best == IMPOSSIBLE:
        # No program has a solution: the record should say of a plan why not.
        evaluate(evaluate.leanest())


def _solutions(space: Space, plan: Plan, limit_bytes: float) -> Iterator[Plan]:
    """Plans to try until one fits."""
    own = space.constraints
    alike = len(set(space.workload.model.layer_kinds)) == 1
    recomputes = own.uneven_recomputation and plan.recomputation != "none"
    cuts = own.uneven_stages and plan.total_stages > 1
    if not alike or not (recomputes or cuts):
        yield plan
        return
    count = space.workload.model.num_layers
    program = _program(StageTables(space.workload, space.cluster, plan), count)
    even = None if cuts else plan.layers_of_stages(count)
    for share in TIGHTER:
        solved = _solve(program, count, share * limit_bytes, even, free=recomputes)
        if solved is None:
            return
        blocks, again = solved
        yield replace(
            plan,
            stage_layers=blocks if cuts else None,
            recomputed_of_stages=again if recomputes else None,
        )


class _Linear(NamedTuple):
    """A number of each stage: fixed + per block + per recomputed block, shape [stages] each."""

    fixed: Floats
    block: Floats
    recomputed: Floats

    def times(self, factor: float) -> "_Linear":
        return _Linear(*(factor * part for part in self))

    def plus(self, other: "_Linear") -> "_Linear":
        return _Linear(*(a + b for a, b in zip(self, other, strict=True)))


class _Program(NamedTuple):
    """Variables and constraints of the integer program of a plan."""

    tables: StageTables
    seconds: _Linear
    state: _Linear
    saved: _Linear
    whole: _Linear
    """Of all recomputed blocks."""
    running: Floats
    """Beside them while a backward runs; shape [stages]."""


def _program(tables: StageTables, num_blocks: int) -> _Program:
    stages = tables.plan.total_stages
    room = num_blocks - stages + 1
    few, many = 1, max(2, min(room, -(-num_blocks // stages)))

    def linear(value: str) -> _Linear:
        """Fit a line through three sizes: few and many blocks kept, and many all recomputed."""
        rows = []
        for stage in range(stages):
            first = min(stage, num_blocks - many)
            small, large = (StageSize(stage, first, first + n) for n in (few, many))
            a, b, c = (
                _value(tables, value, size, again)
                for size, again in ((small, 0), (large, 0), (large, many))
            )
            slope = (b - a) / (many - few)
            rows.append((a - slope * few, slope, (c - b) / many))
        return _Linear(*np.array(rows).T)

    running = [
        tables.needs(StageSize(s, min(s, num_blocks - many), min(s, num_blocks - many) + many))
        for s in range(stages)
    ]
    return _Program(
        tables,
        linear("seconds"),
        linear("state"),
        linear("saved"),
        linear("whole"),
        np.array([need.recomputed_bytes for need in running]),
    )


def _value(tables: StageTables, what: str, size: StageSize, again: int) -> float:
    # Without recomputation there is nothing to count.
    recomputed = again if tables.plan.recomputation != "none" else None
    if what == "seconds":
        return tables.seconds(size, recomputed)
    need = tables.needs(size, recomputed)
    if what == "saved":
        return need.saved_bytes
    if what == "whole":
        return need.recomputed_stage_bytes
    state = need.parameter_bytes + need.gradient_bytes + need.optimizer_bytes
    return state + need.gathered_parameter_bytes + need.gathered_gradient_bytes


def _solve(
    program: _Program,
    num_blocks: int,
    limit_bytes: float,
    even: tuple[int, ...] | None,
    *,
    free: bool,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Blocks and recomputed blocks of each stage; None where no whole numbers fit.

    Variables: n and r of each stage, then the seconds of the slowest rank. `even`: n is given.
    `free`: r is free; all blocks are recomputed (or none, as the plan says) otherwise.
    """
    plan, tables = program.tables.plan, program.tables
    stages = plan.total_stages
    scale = max(float(program.seconds.block.max()), 1e-12)
    times = program.seconds.times(1 / scale)
    owners = [moments.stages for moments in tables.moments]
    rows: list[Floats] = []
    upper: list[float] = []
    for own in owners:
        row, fixed = _row(times, dict.fromkeys(own, 1.0), stages)
        row[-1] = -1.0
        rows.append(row)
        upper.append(-fixed)
    for moments in tables.moments:
        for counts in moments.counts.tolist():
            row, fixed = _moment(program, moments.stages, counts)
            rows.append(row / limit_bytes)
            upper.append(1.0 - fixed / limit_bytes)
    blocks = np.concatenate((np.ones(stages), np.zeros(stages + 1)))
    tied = np.concatenate((-np.eye(stages), np.eye(stages), np.zeros((stages, 1))), axis=1)
    all_or_none = 0.0 if free else 1.0
    held = [
        LinearConstraint(np.array(rows), -np.inf, np.array(upper)),
        LinearConstraint(blocks, num_blocks, num_blocks),
    ]
    recomputes = plan.recomputation != "none"
    if recomputes:
        held.append(LinearConstraint(tied, -np.inf if not all_or_none else 0.0, 0.0))
    low = np.array(even if even else [1] * stages, dtype=np.float64)
    high = low if even else np.full(stages, num_blocks - stages + 1.0)
    most = high if recomputes else np.zeros(stages)
    weights = np.concatenate((times.block, times.recomputed, [max(1, plan.num_micro_batches - 1)]))
    found = milp(
        weights,
        constraints=held,
        integrality=np.concatenate((np.ones(2 * stages), [0])),
        bounds=Bounds(
            np.concatenate((low, np.zeros(stages + 1))), np.concatenate((high, most, [np.inf]))
        ),
        options={"node_limit": NODES, "mip_rel_gap": 1e-3},
    )
    if found.x is None:
        return None
    numbers = [round(x) for x in found.x[: 2 * stages].tolist()]
    return tuple(numbers[:stages]), tuple(numbers[stages:])


def _row(values: _Linear, counts: dict[int, float], stages: int) -> tuple[Floats, float]:
    """Coefficients of all variables, and the fixed part, of the sum over some stages."""
    row, fixed = np.zeros(2 * stages + 1), 0.0
    for stage, count in counts.items():
        row[stage] += count * values.block[stage]
        row[stages + stage] += count * values.recomputed[stage]
        fixed += count * float(values.fixed[stage])
    return row, fixed


def _moment(program: _Program, own: tuple[int, ...], counts: list[int]) -> tuple[Floats, float]:
    """The memory of a rank at a moment (`Moments.counts`)."""
    stages, n = program.tables.plan.total_stages, len(own)
    kept, split, running = counts[:n], counts[n : 2 * n], counts[2 * n :]
    row, fixed = _row(program.state, dict.fromkeys(own, 1.0), stages)
    for values, times in ((program.saved, kept), (program.whole, split)):
        more, extra = _row(values, dict(zip(own, map(float, times), strict=True)), stages)
        row, fixed = row + more, fixed + extra
    beside = [count * program.running[s] for s, count in zip(own, running, strict=True)]
    return row, fixed + float(sum(beside))
