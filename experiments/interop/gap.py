"""Where a measured step lies, and by which single change in the model its gap would close."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster, Tier
from parplan.planners.explain.uncertainty import interval
from parplan.sim.analysis.residuals import Residuals
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import Framework
from parplan.sim.software.presets import names
from parplan.sim.workload import Workload, with_software

SLOWEST, HALVINGS = 1 / 16, 12
"""The least share of a rate that is tried, and the steps of the search for it."""

CLOSES = 0.1
"""A change that leaves a smaller part of the gap is said to close it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """What was measured of a step; one of the three."""

    step_s: float | None = None
    mfu: float | None = None
    tokens_per_s: float | None = None

    def seconds(self, workload: Workload, cluster: Cluster) -> float | None:
        """The step that it means; None where nothing was measured.

        Raises `ParplanError` for more than one, and for what no step can have.
        """
        given = [value for value in (self.step_s, self.mfu, self.tokens_per_s) if value is not None]
        if not given:
            return None
        if len(given) > 1:
            raise ParplanError(
                "--measured-step, --measured-mfu, --measured-tokens-per-s: give one of them"
            )
        if given[0] <= 0:
            raise ParplanError(f"--measured-...: must be positive, got {given[0]:g}")
        if self.step_s is not None:
            return self.step_s
        if self.tokens_per_s is not None:
            return workload.tokens / self.tokens_per_s
        peak = cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
        share = (self.mfu or 0.0) / 100
        if share > 1:
            raise ParplanError(f"--measured-mfu: a percentage up to 100, got {self.mfu:g}")
        return workload.model_flops / (share * peak * cluster.num_accelerators)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A single change in the model, and the step with it."""

    cause: str
    """`software`, `network`, `kernels`, `recomputation`, `bubble` or `overlap`."""
    change: str
    step_s: float

    def left(self, predicted_s: float, measured_s: float) -> float:
        """The part of the gap that it leaves; above 1 where it widens it."""
        gap = measured_s - predicted_s
        return abs(measured_s - self.step_s) / abs(gap) if gap else 0.0


def explanations(
    workload: Workload, cluster: Cluster, plan: Plan, predicted_s: float, measured_s: float
) -> tuple[Explanation, ...]:
    """Single changes that bring the prediction nearer to the measurement, the nearest first."""

    def step(
        plan: Plan = plan, workload: Workload = workload, cluster: Cluster = cluster
    ) -> float | None:
        try:
            return predict(compile_plan(workload, cluster, plan)).step_s
        except ParplanError:
            return None

    found = []
    slower = measured_s > predicted_s
    for cause, change, taken_s in _single(workload, plan, step):
        if taken_s is not None and (taken_s > predicted_s) == slower and taken_s != predicted_s:
            found.append(Explanation(cause=cause, change=change, step_s=taken_s))
    if slower:
        found += _rates(workload, cluster, measured_s, step)
    nearer = [e for e in found if e.left(predicted_s, measured_s) < 1]
    return tuple(sorted(nearer, key=lambda e: e.left(predicted_s, measured_s)))


Step = Callable[..., float | None]


def _single(workload: Workload, plan: Plan, step: Step) -> Iterator[tuple[str, str, float | None]]:
    """(cause, change, the step with it) of each choice that the launch may have made otherwise."""
    for name in names():
        other = with_software(workload, name)
        if other != workload:
            yield "software", f"--software {name}", step(workload=other)
    fields: dict[str, Any]
    for name in ("fused_norms", "fused_elementwise", "fused_loss"):
        fields = {name: not getattr(workload, name)}
        change = f"workload.{name} {str(fields[name]).lower()}"
        yield "software", change, step(workload=replace(workload, **fields))
    for kind in ("flash", "flash-2", "unfused", "eager"):
        if kind != workload.attention:
            fields = {"attention": kind}
            changed = step(workload=replace(workload, **fields))
            yield "software", f"workload.attention {kind}", changed
    for kind in ("none", "selective", "full"):
        if kind != plan.recomputation:
            fields = {"recomputation": kind, "recomputed_layers": None}
            yield "recomputation", f"recomputation {kind}", step(plan=replace(plan, **fields))
    for name in ("overlap_gradient_reduction", "overlap_parameter_gather"):
        fields = {name: not getattr(plan, name)}
        change = f"{name} {str(fields[name]).lower()}"
        yield "overlap", change, step(plan=replace(plan, **fields))
    if plan.num_stages > 1 and plan.num_micro_batches % 2 == 0:
        half = replace(
            plan,
            num_micro_batches=plan.num_micro_batches // 2,
            batch_per_device=plan.batch_per_device * 2,
        )
        change = f"{half.num_micro_batches} micro-batches of {half.batch_per_device}"
        yield "bubble", change, step(plan=half)


def _rates(
    workload: Workload, cluster: Cluster, measured_s: float, step: Step
) -> Iterator[Explanation]:
    """The share of a rate with which the step would be the measured one."""
    kernels = _share(lambda share: step(workload=_slowed(workload, share)), measured_s)
    if kernels is not None:
        share, taken_s = kernels
        yield Explanation(
            cause="kernels", change=f"kernels at {share:.0%} of their rate", step_s=taken_s
        )
    places = {"within nodes": 0, "between nodes": len(cluster.tiers) - 1}
    for where, place in places.items():
        if where == "within nodes" and len(cluster.tiers) == 1 and cluster.num_nodes > 1:
            continue
        if where == "between nodes" and cluster.num_nodes == 1:
            continue
        network = _share(partial(_with_links, step, cluster, place), measured_s)
        if network is not None:
            share, taken_s = network
            yield Explanation(
                cause="network",
                change=f"links {where} at {share:.0%} of their bandwidth",
                step_s=taken_s,
            )


def _with_links(step: Step, cluster: Cluster, place: int, share: float) -> float | None:
    return step(cluster=_thinner(cluster, place, share))


def _share(
    step_with: Callable[[float], float | None], measured_s: float
) -> tuple[float, float] | None:
    """The share of a rate at which a step takes so long, and the step; the least one if none."""
    low, high = SLOWEST, 1.0
    slowest_s = step_with(low)
    if slowest_s is None:
        return None
    if slowest_s <= measured_s:
        return low, slowest_s
    found = low, slowest_s
    for _ in range(HALVINGS):
        share = (low * high) ** 0.5
        taken_s = step_with(share)
        if taken_s is None:
            return None
        found = share, taken_s
        low, high = (share, high) if taken_s > measured_s else (low, share)
    return found


def _slowed(workload: Workload, share: float) -> Workload:
    old: Framework = workload.framework
    return replace(workload, framework=replace(old, kernel_slowdown=old.kernel_slowdown / share))


def _thinner(cluster: Cluster, place: int, share: float) -> Cluster:
    """The cluster with links of so much of their bandwidth in one tier."""
    tiers: list[Tier] = list(cluster.tiers)
    tier = tiers[place]
    link = replace(tier.link, bytes_per_s=tier.link.bytes_per_s * share)
    fabric = tier.fabric
    if fabric is not None:
        peer = fabric.peer_bytes_per_s
        fabric = replace(
            fabric,
            nominal_bytes_per_s=fabric.nominal_bytes_per_s * share,
            peer_bytes_per_s=None if peer is None else peer * share,
        )
    tiers[place] = replace(tier, link=link, fabric=fabric)
    return replace(cluster, tiers=tuple(tiers))


def gap_lines(
    workload: Workload,
    cluster: Cluster,
    plan: Plan,
    predicted_s: float,
    measured_s: float,
    residuals: Residuals,
    found: tuple[Explanation, ...],
) -> Iterator[str]:
    """The measured step beside the predicted one, like published runs, and what may be why."""
    gap = measured_s / predicted_s - 1
    peak = cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    mfu = workload.model_flops / measured_s / cluster.num_accelerators / peak
    yield (
        f"measured step {measured_s:.3f} s ({workload.tokens / measured_s:,.0f} tokens/s, MFU "
        f"{mfu:.1%}): {abs(gap):.1%} {'longer' if gap > 0 else 'shorter'} than predicted"
    )
    like = interval(residuals, cluster, plan, predicted_s)
    if like is not None:
        place = _place(measured_s, like.low_s, like.high_s)
        yield f"among {like.like.runs} like published runs: {place}"
    if not found:
        yield "no single change that was tried brings the prediction nearer"
    for one in found[:SHOWN]:
        left = one.left(predicted_s, measured_s)
        what = "would close the gap" if left < CLOSES else f"would leave {left:.0%} of the gap"
        yield f"{one.cause}: {one.change}: {one.step_s:.3f} s, {what}"


SHOWN = 6
"""Changes that are printed; all are in gap.csv."""


def _place(measured_s: float, low_s: float, high_s: float) -> str:
    if measured_s > high_s:
        return f"slower than nine of ten, which are at most {high_s:.3g} s"
    if measured_s < low_s:
        return f"faster than nine of ten, which are at least {low_s:.3g} s"
    return f"within the {low_s:.3g} to {high_s:.3g} s of eight of ten"
