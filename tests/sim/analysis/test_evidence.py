"""What a prediction rests on is said, and adds up."""

from dataclasses import replace

import pytest

from parplan.hardware.estimates.estimate import Estimate
from parplan.hardware.estimates.profile import CollectiveCall
from parplan.hardware.kernels.kernel import Gemm, Kernel
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.analysis.evidence import evidence_of
from parplan.sim.cost_model.stage_costs import model_costs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama2-7b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
)
PLAN = Plan(num_micro_batches=2, batch_per_device=1, data_parallel=8, recomputation="full")
CLUSTER = cluster_preset("8xa100-80gb")


class Measured:
    """Knows that each matrix product takes a second."""

    def kernel(self, kernel: Kernel) -> Estimate | None:
        return Estimate(seconds=1.0, origin="measured") if isinstance(kernel, Gemm) else None

    def collective(self, collective: CollectiveCall) -> Estimate | None:
        return None


def test_without_measurements_everything_is_modelled() -> None:
    assert evidence_of(WORKLOAD, CLUSTER, PLAN).share("modelled") == 1.0


def test_what_was_measured_overrides_the_model_and_is_counted() -> None:
    cluster = replace(CLUSTER, measured=Measured())
    found = evidence_of(WORKLOAD, cluster, PLAN)
    # Four products a block, forward twice and two gradients each; and the head's, forward once.
    products = 2 * (32 * 4 * 4 + 3)
    assert found.seconds["measured"] == products
    assert found.shapes["measured"] == 3 * 5
    assert found.share("measured") + found.share("modelled") == pytest.approx(1.0)
    block = model_costs(WORKLOAD, cluster, PLAN).blocks["dense", True]
    assert block.weight_gradient_s == 4.0
    assert block.forward_s == pytest.approx(4.0, abs=0.1)
    assert str(found).startswith("100% measured (15 shapes), ")
