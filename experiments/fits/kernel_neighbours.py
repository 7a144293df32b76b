"""Residuals of the kernel time model, interpolated from measured products of near shape.

Not part of the shipped model: it says how much of what the model leaves over is a function of the
shape at all. Kernel ridge regression (Rasmussen and Williams 2006, Gaussian Processes for Machine
Learning, equation 2.25) with an exponential covariance of the distance between shapes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parplan.experiments.fits.microbench import Measurement
from parplan.hardware.kernels.kernel import Gemm

# Chosen by cross-validation over the fitted part (lengths 0.3 to 2, layouts 0.2 and 1, noises 0.7
# and 1.5); longer and noisier was better throughout.
LENGTH = 2.0
"""Octaves of m, n and k, in all, over which residuals are alike."""
OTHER_LAYOUT = 0.2
"""Distance, in lengths, between two layouts or types of output."""
NOISE = 1.5
"""Standard deviation of what shape does not explain, over that of what it does."""

Judged = tuple[Measurement, float]


def corrected(known: Sequence[Judged], asked: Sequence[Judged]) -> list[float]:
    """The relative errors of `asked`, all products, once the residuals of `known` are used.

    Each comes with the relative error of the model alone.
    """
    residuals = np.array([np.log1p(error) for _, error in known])
    covariance = _covariance(known, known) + NOISE**2 * np.eye(len(known))
    weights = np.linalg.solve(covariance, residuals)
    expected = _covariance(asked, known) @ weights
    own = np.array([np.log1p(error) for _, error in asked])
    return [float(error) for error in np.expm1(own - expected)]


def _covariance(left: Sequence[Judged], right: Sequence[Judged]) -> NDArray[np.float64]:
    (sizes, kinds), (other_sizes, other_kinds) = _features(left), _features(right)
    steps = sizes[:, None, :] - other_sizes[None, :, :]
    distance = np.sqrt((steps**2).sum(axis=-1)) / LENGTH
    distance += OTHER_LAYOUT * (kinds[:, None] != other_kinds[None, :])
    covariance: NDArray[np.float64] = np.exp(-distance)
    return covariance


def _features(rows: Sequence[Judged]) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    kernels = [m.kernel for m, _ in rows if isinstance(m.kernel, Gemm)]
    sizes = np.log2([[k.m, k.n, k.k] for k in kernels])
    kinds = [f"{k.transposed} {k.output_bytes} {k.grouped}" for k in kernels]
    return sizes, np.array(kinds)
