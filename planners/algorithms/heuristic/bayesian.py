"""Bayesian optimisation with a Gaussian process.

Mockus 1975; expected improvement as in Jones, Schonlau and Welch 1998 (J. Global Optim. 13). A
Matern 5/2 kernel says, of plans that were not tried, how good they may be, from the logarithms of
the sizes of those that were. Of many plans drawn by chance and the neighbours of the best, those
with the largest expected improvement are tried next. A plan that does not fit counts as slower than
all that do, by how much memory it lacks.
"""

import math
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import ndtr

from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.plan import Plan

Floats = npt.NDArray[np.float64]

FIRST = 16
"""Plans drawn by chance before there is a model."""
POOL = 256
"""Plans of which the expected improvement is computed in each round."""
AT_ONCE = 4
"""Of these, how many are tried."""
KEPT = 256
"""Trials that the model is of: the best half and the latest half."""
SCALES = (0.3, 0.6, 1.2, 2.4)
NOISES = (1e-4, 1e-2)
"""Lengths and noises that are compared by their likelihood."""


def bayesian(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Try what promises most, learn, go on; ends when every plan was tried."""
    columns = _Columns(space)
    tried: dict[Plan, Trial] = {}
    _try(evaluate, tried, [space.sample(rng) for _ in range(FIRST)])
    while len(tried) < len(space):
        pool = _pool(space, evaluate, tried, rng)
        if not pool:
            pool = list(islice((plan for plan in space if plan not in tried), POOL))
        trials = _kept(list(tried.values()), evaluate)
        model = _fit(columns.of([t.plan for t in trials]), _values(trials, evaluate))
        gain = model.expected_improvement(columns.of(pool))
        order = np.argsort(-gain, kind="stable")[:AT_ONCE].tolist()
        _try(evaluate, tried, [pool[i] for i in order])


def _try(evaluate: Evaluator, tried: dict[Plan, Trial], plans: Sequence[Plan]) -> None:
    new = [plan for plan in dict.fromkeys(plans) if plan not in tried]
    tried.update((trial.plan, trial) for trial in evaluate.many(new))


def _pool(space: Space, evaluate: Evaluator, tried: dict[Plan, Trial], rng: Random) -> list[Plan]:
    best = sorted(tried.values(), key=evaluate.energy)[:AT_ONCE]
    near = [plan for trial in best for plan in space.neighbours(trial.plan)]
    drawn = [space.sample(rng) for _ in range(POOL)]
    return [plan for plan in dict.fromkeys([*near, *drawn]) if plan not in tried]


def _kept(trials: list[Trial], evaluate: Evaluator) -> list[Trial]:
    if len(trials) <= KEPT:
        return trials
    latest = trials[-KEPT // 2 :]
    return [*sorted(trials[: -KEPT // 2], key=evaluate.energy)[: KEPT // 2], *latest]


def _values(trials: Sequence[Trial], evaluate: Evaluator) -> Floats:
    """Targets of the model: the logarithm of the key; plans that do not fit: above the worst."""
    good = [evaluate.energy(t) for t in trials if t.step_s is not None]
    worst = max(good, default=0.0)
    return np.array(
        [
            evaluate.energy(t)
            if t.step_s is not None
            else worst + 0.5 + 0.1 * math.log(max(t.memory_bytes, default=1e15) / 1e9)
            for t in trials
        ]
    )


class _Columns:
    """Plans as rows of numbers, each dimension from 0 to 1; names become one column each."""

    def __init__(self, space: Space) -> None:
        self._dimensions = space.dimensions

    def of(self, plans: Sequence[Plan]) -> Floats:
        """Shape [plans, columns]."""
        return np.array([self._row(plan) for plan in plans], dtype=np.float64)

    def _row(self, plan: Plan) -> list[float]:
        row: list[float] = []
        for name, value in point_of(plan).values().items():
            known = self._dimensions.get(name, ())
            if len(known) < 2:
                continue
            row += _scaled(value, known) if _is_size(known) else _one_of(value, known)
        return row


def _is_size(known: Sequence[object]) -> bool:
    """Whether all values are whole numbers above 0, or None, which means all."""
    numbers = [value for value in known if value is not None]
    if len(numbers) < 2:
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in numbers)


def _scaled(value: int | None, known: Sequence[int | None]) -> list[float]:
    numbers = [v for v in known if v is not None]
    most = 2 * max(numbers) if None in known else max(numbers)
    low, high = math.log(min(numbers)), math.log(most)
    return [1.0 if value is None else (math.log(value) - low) / (high - low)]


def _one_of(value: object, known: Sequence[object]) -> list[float]:
    return [float(value == other) for other in known]


class _Model(NamedTuple):
    """A Gaussian process with mean 0 and variance 1, of values that are shifted and scaled."""

    rows: Floats
    factor: Floats
    weights: Floats
    scale: float
    best: float
    likelihood: float

    def expected_improvement(self, rows: Floats) -> Floats:
        """Expected improvement of each row over the best value, shape [rows]."""
        cross = _matern(rows, self.rows, self.scale)
        mean = cross @ self.weights
        half = solve_triangular(self.factor, cross.T, lower=True)
        deviation = np.sqrt(np.maximum(1e-12, 1.0 - (half**2).sum(axis=0)))
        z = (self.best - mean) / deviation
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        return np.asarray(deviation * (z * ndtr(z) + density))


def _fit(rows: Floats, values: Floats) -> _Model:
    """The most likely of a few models."""
    spread = float(values.std()) or 1.0
    scaled = (values - values.mean()) / spread
    models = (_model(rows, scaled, scale, noise) for scale in SCALES for noise in NOISES)
    return max(models, key=lambda model: model.likelihood)


def _model(rows: Floats, values: Floats, scale: float, noise: float) -> _Model:
    covariance = _matern(rows, rows, scale) + noise * np.eye(len(rows))
    factor, _ = cho_factor(covariance, lower=True)
    lower = np.tril(factor)
    weights = cho_solve((factor, True), values)
    likelihood = -0.5 * float(values @ weights) - float(np.log(np.diag(lower)).sum())
    return _Model(rows, lower, weights, scale, float(values.min()), likelihood)


def _matern(one: Floats, two: Floats, scale: float) -> Floats:
    square = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1) - 2 * one @ two.T
    distance = np.sqrt(5 * np.maximum(0.0, square)) / scale
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))
