"""Find the feature of the plans that explains the errors of a group of runs.

The signed error (the logarithm of predicted over measured time) is regressed on the values of each
feature, each value a category of its own (one-way analysis of variance: Fisher 1925), and on those
of all features together. A share of the variance is adjusted for the number of values (Ezekiel
1930), so a feature with many values does not win by that alone.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.request import CaseRequest

FEWEST_OUTCOMES = 8

FEATURES: Mapping[str, Callable[[CaseRequest], object]] = {
    "tp": lambda r: r.plan.tensor_parallel,
    "pp": lambda r: r.plan.num_stages,
    "dp": lambda r: r.plan.data_parallel,
    "micro-batch": lambda r: r.plan.batch_per_device,
    "micro-batches": lambda r: r.plan.num_micro_batches,
    "sequence": lambda r: r.workload.seq_len,
    "recomputation": lambda r: r.plan.recomputation,
    "zero": lambda r: r.plan.zero_stage,
    "model": lambda r: r.workload.model.name,
    "accelerators": lambda r: r.cluster.num_accelerators,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The runs with one value of a feature."""

    value: str
    count: int
    median_size: float
    """Of the absolute errors."""
    median: float
    """Of the signed errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The share of the errors' variance that one feature explains."""

    name: str
    alone: float
    """Adjusted share; below zero where chance would explain more."""
    beyond_others: float
    """Share that is lost when the others have to do without it."""
    levels: tuple[Level, ...]


def attributions(outcomes: Sequence[Outcome]) -> list[Attribution]:
    """The features that differ between `outcomes`, the one that explains most first.

    Raises `ParplanError` for too few outcomes with an error, or if no feature differs.
    """
    rows = [(o.request, float(np.log1p(o.error))) for o in outcomes if o.error is not None]
    known = [(request, error) for request, error in rows if request is not None]
    if len(known) < FEWEST_OUTCOMES:
        raise ParplanError(
            f"attribution needs {FEWEST_OUTCOMES} runs with a step time that can be predicted, "
            f"or more; got {len(known)}"
        )
    errors = np.array([error for _, error in known])
    values = {name: [of(request) for request, _ in known] for name, of in FEATURES.items()}
    values = {name: column for name, column in values.items() if len(set(column)) > 1}
    if not values or not errors.var():
        raise ParplanError(f"attribution: the plans of all {len(known)} runs are the same")
    everything = _explained(list(values.values()), errors)
    found = [
        Attribution(
            name=name,
            alone=_adjusted([column], errors),
            beyond_others=everything
            - _explained([c for other, c in values.items() if other != name], errors),
            levels=_levels(column, errors),
        )
        for name, column in values.items()
    ]
    return sorted(found, key=lambda one: -one.alone)


def _levels(column: Sequence[object], errors: np.ndarray) -> tuple[Level, ...]:
    found = []
    for value in sorted(set(column), key=_order):
        own = [float(np.expm1(e)) for v, e in zip(column, errors, strict=True) if v == value]
        found.append(
            Level(
                value=str(value),
                count=len(own),
                median_size=statistics.median(map(abs, own)),
                median=statistics.median(own),
            )
        )
    return tuple(found)


def _order(value: object) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))


def _design(columns: Sequence[Sequence[object]], count: int) -> np.ndarray:
    """A column of ones, and one for each value of each feature but its first."""
    made = [np.ones(count)]
    for column in columns:
        values = sorted(set(column), key=_order)[1:]
        made += [np.array([float(v == value) for v in column]) for value in values]
    return np.array(made).T


def _explained(columns: Sequence[Sequence[object]], errors: np.ndarray) -> float:
    """Share of the variance that least squares explain."""
    design = _design(columns, len(errors))
    fitted = design @ np.linalg.lstsq(design, errors, rcond=None)[0]
    return 1 - float(np.sum((errors - fitted) ** 2) / np.sum((errors - errors.mean()) ** 2))


def _adjusted(columns: Sequence[Sequence[object]], errors: np.ndarray) -> float:
    count = len(errors)
    free = count - int(np.linalg.matrix_rank(_design(columns, count)))
    if free < 1:
        return 0.0
    return 1 - (1 - _explained(columns, errors)) * (count - 1) / free
