"""The constants that a user's own runs may move, and how far from the shipped ones to expect them.

A point is a vector of one number per constant: how many widths it lies from where it is shipped, so
that the prior is a standard normal. The widths are assumed: about the range over the software and
the machines that are shipped. They were fixed before any fit was looked at.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parplan.experiments.cases.own.machine_factors import MachineSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnConstant:
    """One constant: the width of its prior, and between what it may lie."""

    name: str
    width: float
    least: float
    most: float
    is_factor: bool = False
    """Whether it is a factor of the machine: its logarithm is what the width is of."""


OWN_CONSTANTS = (
    OwnConstant(name="host_s_per_kernel", width=3e-5, least=0.0, most=5e-4),
    OwnConstant(name="host_s_per_exchange", width=2e-5, least=0.0, most=5e-4),
    OwnConstant(name="backward_host_share", width=0.5, least=0.0, most=5.0),
    OwnConstant(name="message_s", width=3e-4, least=0.0, most=1e-2),
    OwnConstant(name="step_s", width=2e-2, least=0.0, most=0.5),
    OwnConstant(name="kernel_slowdown", width=0.1, least=0.7, most=2.0),
    OwnConstant(name="expert_layer_s", width=1e-3, least=0.0, most=1e-2),
    OwnConstant(name="hidden_share", width=0.3, least=0.0, most=1.0),
    OwnConstant(name="tensor_hidden_share", width=0.2, least=0.0, most=1.0),
    OwnConstant(name="overlapped_share", width=0.2, least=0.0, most=1.0),
    OwnConstant(name="products_factor", width=0.15, least=0.3, most=2.0, is_factor=True),
    OwnConstant(name="network_factor", width=0.3, least=0.1, most=3.0, is_factor=True),
)

COUNT = len(OWN_CONSTANTS)


def value_of(setting: MachineSetting, constant: OwnConstant) -> float:
    """The constant in `setting`."""
    owner = setting.machine if constant.is_factor else setting.framework
    return float(getattr(owner, constant.name))


def setting_at(start: MachineSetting, point: Sequence[float] | np.ndarray) -> MachineSetting:
    """The constants at `point`, whose origin is `start`; what passes a bound lies on it."""
    of_framework: dict[str, float] = {}
    of_machine: dict[str, float] = {}
    for constant, z in zip(OWN_CONSTANTS, point, strict=True):
        if z == 0:
            continue
        value = value_of(start, constant)
        if constant.is_factor:
            moved, fields = value * math.exp(constant.width * z), of_machine
        else:
            moved, fields = value + constant.width * float(z), of_framework
        fields[constant.name] = min(max(moved, constant.least), constant.most)
    return MachineSetting(
        framework=dataclasses.replace(start.framework, **of_framework),  # type: ignore[arg-type]
        machine=dataclasses.replace(start.machine, **of_machine),
    )


def limits(start: MachineSetting) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest point, per constant; the origin is never outside."""
    low, high = np.empty(COUNT), np.empty(COUNT)
    for i, constant in enumerate(OWN_CONSTANTS):
        value = value_of(start, constant)
        if constant.is_factor:
            ends = math.log(constant.least / value), math.log(constant.most / value)
        else:
            ends = constant.least - value, constant.most - value
        low[i], high[i] = ends[0] / constant.width, ends[1] / constant.width
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def standard_errors(setting: MachineSetting, covariance: np.ndarray) -> np.ndarray:
    """Standard error of each constant at `setting`, in its unit, from the covariance of points."""
    scale = [c.width * (value_of(setting, c) if c.is_factor else 1.0) for c in OWN_CONSTANTS]
    return np.asarray(np.sqrt(np.diag(covariance)) * np.array(scale))
