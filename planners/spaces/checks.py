"""Early rejection of requests that no candidate can satisfy."""

from collections.abc import Sequence

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload


def check_request(workload: Workload, cluster: Cluster, options: Options) -> None:
    """Raise `ParplanError` for what the model or the accelerator rules out."""
    model = workload.model
    if options.num_stages != "auto" and options.num_stages > model.num_layers:
        raise ParplanError(
            f"num_stages: at most {model.num_layers}, the layers of {model.name}; "
            f"got {options.num_stages}"
        )
    try:
        cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    except ParplanError as error:
        has_fp32 = cluster.accelerator.peak_flop_per_s.fp32 is not None
        hint = "; --precision fp32 plans with that" if has_fp32 else ""
        raise ParplanError(f"{cluster.accelerator.name}: {error}{hint}") from None


def check_candidates(workload: Workload, cluster: Cluster, candidates: Sequence[Plan]) -> None:
    """Raise `ParplanError` unless the batch divides over the devices in some candidate."""
    batch, devices = workload.global_batch, cluster.num_accelerators
    for plan in candidates:
        if plan.data_parallel * plan.num_micro_batches * plan.batch_per_device == batch:
            return
    if batch % devices:
        raise ParplanError(
            f"global batch: {batch} does not divide over {devices} accelerators in any candidate; "
            f"a multiple of {devices} does"
        )
    raise ParplanError("the options leave no candidate in this space")
