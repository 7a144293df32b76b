"""Time estimates with their evidence."""

from dataclasses import dataclass
from typing import Literal, Protocol

from parplan.hardware.estimates.profile import CollectiveCall
from parplan.hardware.kernels.kernel import Kernel

Origin = Literal["measured", "interpolated", "extrapolated", "modelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A time, and how it is known."""

    seconds: float
    origin: Origin
    spread_s: float | None = None
    """The noise of the measurement that decides: the point itself, or the nearest one."""


class Measurements(Protocol):
    """Measurements of a machine, which override the model of it (a `ProfileIndex`)."""

    def kernel(self, kernel: Kernel) -> Estimate | None:
        """Time of a kernel; None when none of its kind was measured."""

    def collective(self, collective: CollectiveCall) -> Estimate | None:
        """Time of a collective; None when none of its kind was measured."""
