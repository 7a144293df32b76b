"""Changes that make a plan fit in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster, enlarged
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.trial import Trial, judge
from parplan.planners.spaces.everything import coarse_part, everything
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import divisors
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.workload import Workload

MOST = 1024
"""More devices than so many times as many are not tried."""

MOST_LAYOUTS = 200
"""Layouts of a larger cluster that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A change that makes a plan fit."""

    change: str
    """In words."""
    trial: Trial
    """The changed plan; its step time is not computed."""


def ways_to_fit(
    workload: Workload, cluster: Cluster, closest: Trial, memory_ratio: float
) -> list[Way]:
    """Changes that make `closest` fit, the smallest first; empty where none of those tried does.

    Of changes on the same devices that contain each other, the smaller one; then the smallest
    multiple of the cluster on which the plan fits with all of them.
    """
    found: list[Way] = []
    used: list[set[str]] = []
    for names, plan in _changes(closest.plan, cluster):
        trial = judge(workload, cluster, memory_ratio, plan)
        if trial.fits and not any(less <= set(names) for less in used):
            used.append(set(names))
            found.append(Way(change=" and ".join(names), trial=trial))
    needed = max(closest.memory_bytes, default=0.0) / cluster.accelerator.memory_bytes
    if memory_ratio < needed <= 1:
        whole = judge(workload, cluster, needed, closest.plan)
        found.append(Way(change=f"{needed:.0%} of the memory", trial=whole))
    larger = _larger(workload, cluster, closest.plan, memory_ratio)
    return [*found, larger] if larger else found


def _changes(plan: Plan, cluster: Cluster) -> Iterator[tuple[list[str], Plan]]:
    """Every set of changes that save memory, small sets first."""
    options = _options(plan, cluster)
    numbers = sorted(range(1, 1 << len(options)), key=lambda n: (n.bit_count(), n))
    for number in numbers:
        chosen = [option for i, option in enumerate(options) if number >> i & 1]
        fields: dict[str, object] = {}
        for _, changed in chosen:
            fields |= changed
        yield [name for name, _ in chosen], replace(plan, **fields)  # type: ignore[arg-type]


def _options(plan: Plan, cluster: Cluster) -> list[tuple[str, dict[str, object]]]:
    found: list[tuple[str, dict[str, object]]] = []
    if plan.recomputation != "full":
        found.append(("full recomputation", {"recomputation": "full", "recomputed_layers": None}))
    if plan.zero_stage < 3 and plan.replicas > 1:
        found.append(("ZeRO-3", dict(zero_fields(3))))
    if plan.batch_per_device > 1:
        count = plan.num_micro_batches * plan.batch_per_device
        found.append(("micro-batches of 1", {"batch_per_device": 1, "num_micro_batches": count}))
    if not plan.offload_optimizer and cluster.accelerator.host_bytes_per_s is not None:
        found.append(("the optimizer in the host's memory", {"offload_optimizer": True}))
    return found


def _larger(workload: Workload, cluster: Cluster, plan: Plan, memory_ratio: float) -> Way | None:
    """The smallest multiple of the cluster on which the plan fits, split over all of it."""
    per_replica = workload.global_batch // plan.data_parallel
    sharded = replace(plan, recomputation="full", recomputed_layers=None, stage_layers=None)
    times = 2
    while times <= MOST:
        larger = enlarged(cluster, times)
        for stages in (s for s in divisors(times) if per_replica % (times // s) == 0):
            copies = times // stages
            zero = zero_fields(3 if plan.replicas * copies > 1 else 0)
            spread = replace(
                sharded,
                num_stages=plan.num_stages * stages,
                data_parallel=plan.data_parallel * copies,
                batch_per_device=1,
                num_micro_batches=per_replica // copies,
                **zero,  # type: ignore[arg-type]
            )
            try:
                trial = judge(workload, larger, memory_ratio, spread)
            except ParplanError:
                continue
            if trial.fits:
                return _way(larger, trial)
        other = _another_layout(workload, larger, memory_ratio)
        if other is not None:
            return _way(larger, other)
        times *= 2
    return None


def _way(larger: Cluster, trial: Trial) -> Way:
    plan, words = trial.plan, ["full recomputation"]
    words += ["ZeRO-3"] * (plan.zero_stage == 3)
    words += ["the optimizer in the host's memory"] * plan.offload_optimizer
    words += ["activations in the host's memory"] * plan.offload_activations
    return Way(change=f"{larger.num_accelerators} devices with {' and '.join(words)}", trial=trial)


def _another_layout(workload: Workload, larger: Cluster, memory_ratio: float) -> Trial | None:
    """A plan with other degrees that fits with all that saves memory; None where there is none."""
    lean = replace(
        coarse_part(everything(workload, larger)),
        tensor_parallel_across_nodes=True,
        batch_per_device=(1,),
        virtual_stages=(1,),
        schedule=("1f1b",),
        recomputation=("full",),
        zero_stage=(3,),
        sequence_parallel=(True,),
    )
    try:
        space = make_space(workload, larger, lean)
    except ParplanError:
        return None
    costs = SharedCosts(workload, larger)
    trials = (costs.judge(plan, memory_ratio) for plan in islice(space, MOST_LAYOUTS))
    return next((trial for trial in trials if trial.fits), None)
