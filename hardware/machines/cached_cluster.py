"""A cluster that caches its kernel times."""

from dataclasses import replace

from parplan.hardware.estimates.estimate import Estimate, Measurements
from parplan.hardware.estimates.kernel_times import estimate
from parplan.hardware.estimates.profile import CollectiveCall
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.kernels.kernel import Kernel
from parplan.hardware.network.cluster import Cluster


class _Cached:
    """Measurements, or else the model, with every answer cached."""

    def __init__(self, accelerator: Accelerator, measured: Measurements | None) -> None:
        self.accelerator = accelerator
        self.measured = measured
        self.known: dict[Kernel, Estimate] = {}

    def kernel(self, kernel: Kernel) -> Estimate:
        """Time of a kernel."""
        if kernel not in self.known:
            self.known[kernel] = estimate(self.accelerator, self.measured, kernel)
        return self.known[kernel]

    def collective(self, collective: CollectiveCall) -> Estimate | None:
        """Measured time of a collective, if there is one."""
        return None if self.measured is None else self.measured.collective(collective)


def with_kernel_cache(cluster: Cluster) -> Cluster:
    """The same cluster, which remembers how long each kernel takes."""
    return replace(cluster, measured=_Cached(cluster.accelerator, cluster.measured))
