"""The model of Bayesian optimisation beside textbook formulas, and what it is of."""

import math
from collections.abc import Sequence
from functools import partial
from random import Random

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from parplan.planners.algorithms.heuristic import bayesian as module
from parplan.planners.algorithms.heuristic.bayesian import (
    NOISES,
    SCALES,
    _Columns,
    _fit,
    _is_size,
    _kept,
    _matern,
    _model,
    _one_of,
    _pool,
    _scaled,
    _try,
    _values,
)
from parplan.planners.conformance import example_space
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.plan import Plan

SPACE = example_space()
RNG = np.random.default_rng(3)
ROWS, OTHERS = RNG.random((9, 3)), RNG.random((5, 3))
VALUES = RNG.normal(size=9)


def kernel(one: Sequence[float], two: Sequence[float], scale: float) -> float:
    """Rasmussen and Williams 2006, equation 4.17."""
    r = math.dist(one, two)
    x = math.sqrt(5) * r / scale
    return (1 + x + 5 * r**2 / (3 * scale**2)) * math.exp(-x)


def test_the_kernel_is_matern_5_2() -> None:
    for scale in SCALES:
        found = _matern(ROWS, OTHERS, scale)
        by_hand = [[kernel(a, b, scale) for b in OTHERS.tolist()] for a in ROWS.tolist()]
        assert found == pytest.approx(np.array(by_hand), rel=1e-9)


def gain(best: float, mean: float, deviation: float, value: float) -> float:
    return (best - value) * float(norm(mean, deviation).pdf(value))


@pytest.mark.parametrize(("scale", "noise"), [(0.6, 1e-2), (1.2, 1e-4)])
def test_the_model_is_a_gaussian_process(scale: float, noise: float) -> None:
    model = _model(ROWS, VALUES, scale, noise)
    covariance = np.array([[kernel(a, b, scale) for b in ROWS] for a in ROWS])
    covariance += noise * np.eye(len(ROWS))
    likelihood = multivariate_normal(np.zeros(9), covariance).logpdf(VALUES)
    assert model.likelihood - 4.5 * math.log(2 * math.pi) == pytest.approx(likelihood)
    # The expected improvement is an integral over what a plan may turn out to be.
    cross = np.array([[kernel(a, b, scale) for b in ROWS] for a in OTHERS])
    inverse = np.linalg.inv(covariance)
    mean = cross @ inverse @ VALUES
    variance = 1 - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    found = model.expected_improvement(OTHERS)
    best = float(VALUES.min())
    for own, m, v in zip(found, mean, variance, strict=True):
        gains = partial(gain, best, m, math.sqrt(v))
        wanted = quad(gains, best - 12, best, limit=200)[0]
        assert own == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    # Of what was tried, nothing is expected to be better by much.
    assert (model.expected_improvement(ROWS) < 0.1).all()


def test_the_most_likely_of_the_models_is_taken_of_standard_values() -> None:
    smooth = np.array([10 + 3 * row.sum() for row in ROWS])
    model = _fit(ROWS, smooth)
    standard = (smooth - smooth.mean()) / smooth.std()
    every = [_model(ROWS, standard, s, n) for s in SCALES for n in NOISES]
    assert model.likelihood == max(m.likelihood for m in every)
    assert len({m.likelihood for m in every}) == len(SCALES) * len(NOISES)
    assert model.best == standard.min()
    # Equal values have no spread to divide by.
    level = _fit(ROWS, np.full(9, 7.0))
    assert level.best == 0.0
    assert np.isfinite(level.expected_improvement(OTHERS)).all()


def test_dimensions_as_numbers_from_0_to_1() -> None:
    assert _scaled(4, (1, 4, 16)) == [0.5]
    assert [_scaled(n, (2, 8))[0] for n in (2, 8)] == [0.0, 1.0]
    # None means all: beyond the largest, by as much again.
    depths = (None, 1, 2, 4)
    assert [_scaled(n, depths)[0] for n in (1, 2, 4, None)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert _one_of("b", ("a", "b", "c")) == [0.0, 1.0, 0.0]
    sizes = [(1, 2), (None, 1, 2), (2, 3, 4)]
    names = [(None, 1), (1,), (0, 1), (True, 2), ("a", "b"), (1, 2.0), (-1, 1)]
    assert [_is_size(values) for values in (*sizes, *names)] == [True] * 3 + [False] * 7


def test_a_plan_as_a_row() -> None:
    columns = _Columns(SPACE)
    plans = list(SPACE)
    rows = columns.of(plans)
    assert rows.shape[0] == len(plans)
    assert rows.min() == 0.0
    assert rows.max() == 1.0
    assert len({tuple(row) for row in rows.tolist()}) == len(plans)
    few = Constraints(num_stages=(1, 2), zero_stage=(1,), schedule=("1f1b", "gpipe"))
    small = make_space(SPACE.workload, SPACE.cluster, few)
    one = next(p for p in small if p.num_stages == 2 and p.schedule == "gpipe")
    known = small.dimensions
    assert known["zero_stage"] == (1, 0)
    wanted: list[float] = []
    for name in ("tensor_parallel", "num_stages", "batch_per_device"):
        low, high = math.log(known[name][0]), math.log(known[name][-1])
        wanted.append((math.log(getattr(one, name)) - low) / (high - low))
    for name in ("recomputation", "zero_stage", "sequence_parallel"):
        own = [float(value == getattr(one, name)) for value in known[name]]
        if name == "recomputation":
            own = [float(v == ("gpipe", 1, 0)) for v in known["ordering"]] + own
        wanted += own
    assert _Columns(small).of([one])[0].tolist() == pytest.approx(wanted)


def trial(step_s: float | None, memory: float | None = 1e9, number: int = 1) -> Trial:
    return Trial(
        plan=Plan(batch_per_device=number),
        step_s=step_s,
        memory_bytes=() if memory is None else (1.0, memory),
        reason="" if step_s else "no",
    )


def ask() -> Evaluator:
    return Evaluator(SPACE.workload, SPACE.cluster, space=SPACE)


def test_what_does_not_fit_is_worse_than_all_that_does_by_what_it_needs() -> None:
    found = _values([trial(2.0), trial(None, 50e9), trial(8.0), trial(None, None)], ask())
    worst = math.log(8.0)
    wanted = [math.log(2.0), worst + 0.5 + 0.1 * math.log(50), worst]
    wanted += [worst + 0.5 + 0.1 * math.log(1e6)]
    assert found.tolist() == pytest.approx(wanted)
    nothing = _values([trial(None, 50e9)], ask())
    assert nothing.tolist() == pytest.approx([0.5 + 0.1 * math.log(50)])


def test_the_model_is_of_the_best_and_the_latest() -> None:
    trials = [trial(1.0 + (7 * n) % 301, number=n) for n in range(1, 301)]
    kept = _kept(trials, ask())
    assert len(kept) == 256
    assert kept[128:] == trials[-128:]
    assert kept[:128] == sorted(trials[:172], key=lambda t: t.step_s or 0.0)[:128]
    assert _kept(trials[:256], ask()) == trials[:256]


def test_the_pool_is_near_the_best_four_and_drawn_by_chance() -> None:
    evaluate = ask()
    tried: dict[Plan, Trial] = {}
    _try(evaluate, tried, [*SPACE[:200:10], SPACE[0], SPACE[10]])
    assert list(tried) == SPACE[:200:10]
    assert evaluate.num_asked == 20
    best = sorted(tried.values(), key=evaluate.energy)[:4]
    near = dict.fromkeys(n for t in best for n in SPACE.neighbours(t.plan) if n not in tried)
    again = Random(5)
    drawn = [SPACE.sample(again) for _ in range(256)]
    pool = _pool(SPACE, evaluate, tried, Random(5))
    assert pool[: len(near)] == list(near)
    assert set(pool) == {p for p in (*near, *drawn) if p not in tried}
    assert len(set(pool)) == len(pool)
    _try(evaluate, tried, SPACE[:30:10])
    assert evaluate.num_asked == 20


def test_rounds_are_of_the_four_that_promise_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Plan]] = []
    own = module._try

    def noted(evaluate: Evaluator, tried: dict[Plan, Trial], plans: list[Plan]) -> None:
        asked.append(plans)
        if len(asked) > 1:
            pool = pools[-1]
            trials = list(tried.values())
            columns = _Columns(SPACE)
            model = _fit(columns.of([t.plan for t in trials]), _values(trials, evaluate))
            gain = model.expected_improvement(columns.of(pool)).tolist()
            order = sorted(range(len(pool)), key=lambda i: -gain[i])
            assert plans == [pool[i] for i in order[:4]]
        own(evaluate, tried, plans)

    pools: list[list[Plan]] = []
    own_pool = module._pool

    def pooled(*given: object) -> list[Plan]:
        pools.append(own_pool(*given))  # type: ignore[arg-type]
        return pools[-1]

    monkeypatch.setattr(module, "_try", noted)
    monkeypatch.setattr(module, "_pool", pooled)
    report = run_planner("bayesian", SPACE, budget=Budget(evaluations=40), seed=2)
    rng = Random(2)
    assert asked[0] == [SPACE.sample(rng) for _ in range(16)]
    assert [len(plans) for plans in asked[1:]] == [4] * (len(asked) - 1)
    assert report.stopped == "budget used up"


def test_it_ends_when_everything_was_tried() -> None:
    few = Constraints(num_stages=(1,), tensor_parallel=(1, 2), zero_stage=(0, 3))
    small = make_space(SPACE.workload, SPACE.cluster, few)
    report = run_planner("bayesian", small, budget=Budget(evaluations=10 * len(small)))
    assert report.stopped == "finished"
    assert report.num_asked == len(report.trials) == len(small) > 20
    times = [t.step_s for t in run_planner("exhaustive", small).trials if t.step_s]
    assert report.best is not None
    assert report.best.step_s == min(times)


def test_where_no_plan_is_drawn_those_that_are_left_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = Constraints(num_stages=(1,), tensor_parallel=(1,), zero_stage=(0, 3))
    small = make_space(SPACE.workload, SPACE.cluster, few)
    monkeypatch.setattr(module, "_pool", lambda *given: [])
    monkeypatch.setattr(module, "FIRST", 2)
    report = run_planner("bayesian", small)
    assert report.num_asked == len(report.trials) == len(small)
