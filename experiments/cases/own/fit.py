"""Refining constants from a few measured steps of one's own: the most probable ones.

Maximum a posteriori: with r the logarithms of predicted over measured times and z how many widths
each constant lies from where it is shipped, the fit minimises |r(z) / noise|^2 + |z|^2. The
covariance of z is that of the Laplace approximation, (J^T J / noise^2 + 1)^-1 (MacKay 2003,
Information Theory, Inference, and Learning Algorithms, chapter 27), over all constants, also over
those that are not moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.cases.own.constants import COUNT, limits, setting_at
from parplan.experiments.cases.own.machine_factors import MachineSetting
from parplan.experiments.cases.own.runs import (
    Errors,
    OwnRun,
    cached_errors,
    log_error,
    shipped_setting,
    slopes,
)

NOISE = 0.1
"""Of the logarithm of a step time, beyond what constants explain; more if the fit leaves more.
Of 0.05, 0.1 and 0.2 the one that did best on runs of the calibration file."""

IDENTIFIED = 0.7
"""A constant moves if the runs bring its standard deviation below this share of the prior's, beside
the constants that move already: of two that the runs cannot tell apart, one does."""

NORMAL = 1.4826
"""Standard deviation of a normal distribution over the median of its absolute values."""

FEWEST_RUNS = 5
LEAVE_ONE_OUT_TO = 12
"""Configurations up to which each is held out by itself; beyond, they are dealt to `FOLDS`."""
FOLDS = 5

FINE, WIDE = 0.1, 0.5
"""Widths over which secants are taken: to search, and to tell what the runs say."""

ROUNDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFit:
    """The most probable constants, and what is known of them."""

    start: MachineSetting
    setting: MachineSetting
    point: np.ndarray
    covariance: np.ndarray
    """Of the point, over all constants."""
    moved: tuple[int, ...]
    """The constants that the runs identify, the best known first."""
    noise: float


def check_runs(runs: Sequence[OwnRun]) -> None:
    """Raise `ParplanError` unless constants can be fitted to `runs`."""
    if len(runs) < FEWEST_RUNS:
        raise ParplanError(
            f"a fit needs {FEWEST_RUNS} runs with a step time that can be predicted, or more; "
            f"got {len(runs)}"
        )
    if len(set(map(configuration, runs))) == 1:
        raise ParplanError(
            f"all {len(runs)} runs have the same configuration: none could be held out"
        )


def fit_own(runs: Sequence[OwnRun], errors: Errors | None = None) -> OwnFit:
    """The constants that predict `runs` best while they stay near the shipped ones.

    Raises `ParplanError` for runs of several frameworks.
    """
    start = shipped_setting(runs)
    errors = errors or cached_errors(start)
    point, moved, noise = _searched(runs, errors, start)
    jacobian = _jacobian(runs, errors, point, start, WIDE)
    return OwnFit(
        start=start,
        setting=setting_at(start, point),
        point=point,
        covariance=_covariance(jacobian, noise),
        moved=moved,
        noise=noise,
    )


def _searched(
    runs: Sequence[OwnRun], errors: Errors, start: MachineSetting
) -> tuple[np.ndarray, tuple[int, ...], float]:
    """The most probable point, the constants that move, and the noise that is left."""
    origin = np.zeros(COUNT)
    moved = _identified(_jacobian(runs, errors, origin, start, WIDE))
    point, noise = origin, NOISE
    if moved:
        point = _most_probable(runs, errors, start, moved, noise)
        left = np.array([errors(run, point) for run in runs])
        spread = NORMAL * float(np.median(np.abs(left)))
        if spread > noise:
            noise = spread
            point = _most_probable(runs, errors, start, moved, noise)
    return point, moved, noise


def _jacobian(
    runs: Sequence[OwnRun], errors: Errors, point: np.ndarray, start: MachineSetting, step: float
) -> np.ndarray:
    """A row per run, a column per constant."""
    rows = [slopes(lambda z, run=run: errors(run, z), point, start, step) for run in runs]  # type: ignore[misc]
    return np.array(rows)


def _covariance(jacobian: np.ndarray, noise: float) -> np.ndarray:
    information = jacobian.T @ jacobian / noise**2 + np.eye(jacobian.shape[1])
    return np.asarray(np.linalg.inv(information))


def _identified(jacobian: np.ndarray) -> tuple[int, ...]:
    """The constants that move: one after the other, the best known beside those before it."""
    chosen: list[int] = []
    while len(chosen) < COUNT:
        sizes = {
            i: float(np.sqrt(_covariance(jacobian[:, [*chosen, i]], NOISE)[-1, -1]))
            for i in range(COUNT)
            if i not in chosen
        }
        best = min(sizes, key=lambda i: sizes[i])
        if sizes[best] > IDENTIFIED:
            break
        chosen.append(best)
    return tuple(chosen)


def _most_probable(
    runs: Sequence[OwnRun],
    errors: Errors,
    start: MachineSetting,
    moved: Sequence[int],
    noise: float,
) -> np.ndarray:
    """The point of the smallest sum of squares, along the constants that move."""
    from scipy.optimize import least_squares

    low, high = limits(start)
    chosen = list(moved)

    def whole(x: np.ndarray) -> np.ndarray:
        point = np.zeros(COUNT)
        point[chosen] = x
        return point

    def residuals(x: np.ndarray) -> np.ndarray:
        point = whole(x)
        return np.array([*_softened(np.array([errors(run, point) for run in runs]) / noise), *x])

    def derivatives(x: np.ndarray) -> np.ndarray:
        columns = []
        here = residuals(x)
        for i, k in enumerate(chosen):
            step = FINE if x[i] + FINE <= high[k] else -FINE
            ahead = x.copy()
            ahead[i] += step
            columns.append((residuals(ahead) - here) / step)
        return np.array(columns).T

    found = least_squares(
        residuals,
        np.zeros(len(chosen)),
        jac=derivatives,
        bounds=(low[chosen], high[chosen]),
        max_nfev=ROUNDS,
        xtol=1e-3,
        ftol=1e-4,
    )
    return whole(found.x)


def _softened(r: np.ndarray) -> np.ndarray:
    """Residuals whose squares grow like |r| alone where r is large (pseudo-Huber loss).

    A heavy-tailed likelihood, so that one run that the model does not understand does not bend the
    rest.
    """
    return np.asarray(np.sign(r) * np.sqrt(2 * (np.sqrt(1 + r**2) - 1)))


def configuration(run: OwnRun) -> object:
    """The settings that repeated runs share."""
    case = run.case
    return (case.model, case.hardware, case.parallel, case.precision, case.task)


def held_out_parts(runs: Sequence[OwnRun]) -> list[list[int]]:
    """Indices of the runs that are held out together: each run is in one part.

    Each configuration is a part; of more than `LEAVE_ONE_OUT_TO` every fifth one, in the order of
    the file. Repetitions of a configuration are never on both sides.
    """
    by_configuration: dict[object, list[int]] = {}
    for i, run in enumerate(runs):
        by_configuration.setdefault(configuration(run), []).append(i)
    parts = list(by_configuration.values())
    if len(parts) <= LEAVE_ONE_OUT_TO:
        return parts
    return [sorted(i for part in parts[k::FOLDS] for i in part) for k in range(FOLDS)]


def held_out_errors(runs: Sequence[OwnRun], errors: Errors | None = None) -> list[float]:
    """Relative errors of each run, predicted by a fit to the other parts."""
    start = shipped_setting(runs)
    errors = errors or cached_errors(start)
    found = [0.0] * len(runs)
    for part in held_out_parts(runs):
        others = [run for i, run in enumerate(runs) if i not in part]
        point, _, _ = _searched(others, errors, start)
        for i in part:
            found[i] = relative_error(runs[i], setting_at(start, point))
    return found


def relative_error(run: OwnRun, setting: MachineSetting) -> float:
    """Predicted over measured time, minus one."""
    return float(np.expm1(log_error(run, setting)))
