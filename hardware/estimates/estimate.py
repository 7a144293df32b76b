"""Time estimates with their evidence."""

from dataclasses import dataclass
from typing import Literal, Protocol

from parplan.hardware.estimates.profile import CollectiveCall
from parplan.hardware.kernels.kernel import Kernel

Origin = Literal["measured", "interpolated", "extrapolated", "modelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How long something takes, and how that is known."""

    seconds: float
    origin: Origin
    spread_s: float | None = None
    """The noise of the measurement that decides: the point itself, or the nearest one."""


class Measurements(Protocol):
    """What was measured on a machine, which overrides the model of it (a `ProfileIndex`)."""

    def kernel(self, kernel: Kernel) -> Estimate | None:
        """How long a kernel takes; None when nothing of its kind was measured."""

    def collective(self, collective: CollectiveCall) -> Estimate | None:
        """How long a collective takes; None when nothing of its kind was measured."""
