"""The candidates of Advanced Parallelization, by the rule that its published counts follow.

With G devices on N nodes and a global batch B, a pipeline has S = 2, 4, 8, ... up to N stages and
data-parallel degree G / S, so each pipeline handles B S / G sequences. The micro-batch size b is 1,
2, 4 or 8, divides that number, and leaves at least two micro-batches. Each pipeline, and each
"No PP" candidate, comes once per setting of recomputation and of `distribute_low_prec_param`; which
settings there are depends on the platform's version.
"""

from collections.abc import Iterator, Sequence

from parplan.errors import ParplanError, unknown_name
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan, Recomputation
from parplan.sim.workload import Workload

MICRO_BATCH_SIZES = (1, 2, 4, 8)

Setting = tuple[Recomputation, bool]
"""Recomputation and `distribute_low_prec_param`."""

SETTINGS: dict[str, tuple[Setting, ...]] = {
    # No low-precision field yet, recomputation off or on, pipelines only: 2 P candidates.
    "24.2.0": (("none", False), ("selective", False)),
    # 5 (1 + P) candidates. Which of the six settings is missing is not published: assumed here is
    # the one that trades communication for memory before it recomputes.
    "24.3": (
        ("none", False),
        ("selective", False),
        ("full", False),
        ("selective", True),
        ("full", True),
    ),
    # 6 (1 + P) candidates.
    "24.5": tuple(
        (recomputation, low_precision)
        for low_precision in (False, True)
        for recomputation in ("none", "selective", "full")
    ),
}

DEFAULT_VERSION = "24.3"


def ap_candidates(
    workload: Workload,
    cluster: Cluster,
    options: Options,
    version: str = DEFAULT_VERSION,
    batches_vary: bool = False,
) -> list[Plan]:
    """AP's candidates for `workload` on `cluster`, pipelines first.

    `batches_vary`: the training script has shown several batch sizes; AP then drops every pipeline.
    Raises `ParplanError` for an unknown version.
    """
    if version not in SETTINGS:
        raise unknown_name("AP version", version, SETTINGS)
    settings = [s for s in SETTINGS[version] if _allowed(s, options)]
    layouts: list[tuple[int, int, int]] = []
    if options.pipeline_parallel and not batches_vary:
        layouts += pipelines(workload, cluster, options)
    if version != "24.2.0":
        # Without a pipeline, each device has its share of the batch at once.
        layouts.append((1, 1, max(1, workload.global_batch // cluster.num_accelerators)))
    return [
        _plan(cluster.num_accelerators, layout, setting, options)
        for layout in layouts
        for setting in settings
    ]


def pipelines(workload: Workload, cluster: Cluster, options: Options) -> list[tuple[int, int, int]]:
    """The (stages, micro-batches, micro-batch size) that AP tries."""
    found = []
    for stages in _stage_counts(cluster, options, workload.model.num_layers):
        replicas = cluster.num_accelerators // stages
        if workload.global_batch % replicas:
            continue
        for size in MICRO_BATCH_SIZES:
            micro_batches, rest = divmod(workload.global_batch // replicas, size)
            wanted = options.num_micro_batches
            if rest == 0 and micro_batches >= 2 and wanted in ("auto", micro_batches):
                found.append((stages, micro_batches, size))
    return found


def _stage_counts(cluster: Cluster, options: Options, num_layers: int) -> Iterator[int]:
    limit = cluster.num_nodes if options.num_stages == "auto" else options.num_stages
    stages = 2
    while stages <= min(limit, cluster.num_nodes, num_layers):
        if cluster.num_accelerators % stages == 0:
            yield stages
        stages *= 2


def _allowed(setting: Setting, options: Options) -> bool:
    recomputation, low_precision = setting
    wanted = options.activation_recomputation
    if wanted != "auto" and wanted != (recomputation != "none"):
        return False
    return not (low_precision and options.distribute_parameter is False)


def _plan(
    num_devices: int, layout: tuple[int, int, int], setting: Setting, options: Options
) -> Plan:
    stages, micro_batches, size = layout
    recomputation, low_precision = setting
    distribute = options.distribute_parameter is not False
    return Plan(
        num_stages=stages,
        num_micro_batches=micro_batches,
        batch_per_device=size,
        data_parallel=num_devices // stages,
        recomputation=recomputation,
        distribute_param=distribute,
        distribute_gradient=distribute,
        distribute_low_prec_param=low_precision,
    )


def one_batch(batches: Sequence[int]) -> tuple[int, bool]:
    """The global batch to plan for among those that a script has shown, and whether they vary."""
    if not batches or min(batches) < 1:
        raise ParplanError(f"global batch: must be at least 1, got {list(batches)}")
    return max(batches), len(set(batches)) > 1
