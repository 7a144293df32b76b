"""Evidence of a prediction: shares measured, interpolated, extrapolated or modelled."""

from collections.abc import Iterator
from dataclasses import dataclass

from parplan.hardware.estimates.estimate import Origin
from parplan.hardware.kernels.kernel import Kernel
from parplan.hardware.network.cluster import Cluster
from parplan.sim.cost_model.stage_costs import kernel_estimate, ops_of
from parplan.sim.cost_model.stages import StageLayers, stages_of
from parplan.sim.layers.blocks import recomputed_ops
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Sources of the kernel times of one step, over all stages."""

    seconds: dict[Origin, float]
    """Their time by how it is known."""
    shapes: dict[Origin, int]
    """How many different kernels these are."""

    def share(self, origin: Origin) -> float:
        """The share of the kernel time that has this source."""
        return self.seconds.get(origin, 0.0) / (sum(self.seconds.values()) or 1.0)

    def __str__(self) -> str:
        parts = [
            f"{self.share(origin):.0%} {origin} ({self.shapes[origin]} shapes)"
            for origin in sorted(self.seconds, key=lambda o: -self.seconds[o])
        ]
        return ", ".join(parts)


def evidence_of(workload: Workload, cluster: Cluster, plan: Plan) -> Evidence:
    """Return the sources of the kernel times of `plan` on `cluster`."""
    seconds: dict[Origin, float] = {}
    shapes: dict[Origin, set[Kernel]] = {}
    for stage in stages_of(workload, plan):
        for kernel, count in _kernels(workload, plan, stage):
            found = kernel_estimate(cluster, kernel)
            times = count * plan.num_micro_batches
            seconds[found.origin] = seconds.get(found.origin, 0.0) + times * found.seconds
            shapes.setdefault(found.origin, set()).add(kernel)
    return Evidence(seconds=seconds, shapes={origin: len(all_) for origin, all_ in shapes.items()})


def _kernels(workload: Workload, plan: Plan, stage: StageLayers) -> Iterator[tuple[Kernel, int]]:
    """Every kernel of one micro-batch on a stage, and how often it runs."""
    for ops, again, count in ops_of(workload, plan, stage):
        recomputed = recomputed_ops(plan, ops) if again else frozenset()
        for op in ops:
            times = count * (2 if op.name in recomputed else 1)
            for kernel in op.forward:
                yield kernel, times
            for kernel in (*op.input_gradient, *op.weight_gradient):
                yield kernel, count
