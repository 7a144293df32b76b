"""Prediction intervals from past errors.

The intervals only report past accuracy (`parplan.sim.analysis.residuals`): nothing is fitted to it,
and no prediction or choice depends on it. Runs of one's own may be less like the published ones
than these are like each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.sim.analysis.residuals import ANY, Pairs, Pool, Ratios, Residuals, family_of, setup_of
from parplan.sim.plan import Plan

FEWEST_RUNS = 20
"""Of fewer like runs, those of all accelerators are taken."""

FEWEST_SOURCES: dict[Pool, int] = {"reported": 9, "calibration": 2}
"""The fewest sources of like runs. Of nine, the most extreme ones hold 80 % of the runs of another
one; of the calibration file, one alone says how well one team's software is described."""

FEWEST_SWEEPS = 10
"""Of fewer sweeps (one model, machine and batch), those of all accelerators are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Interval of the measured steps of 80 % of like published runs, sources counted alike."""

    low_s: float
    high_s: float
    like: Ratios
    """The runs that it is from."""

    def __str__(self) -> str:
        scale, unit = (1.0, "s") if self.high_s >= 0.1 else (1e3, "ms")
        return (
            f"80 % of like published runs: {self.low_s * scale:.3g} to "
            f"{self.high_s * scale:.3g} {unit}; n = {self.like.runs}"
        )


def interval(
    residuals: Residuals,
    cluster: Cluster,
    plan: Plan,
    step_s: float,
    pool: Pool = "reported",
    *,
    fewest_sources: int | None = None,
) -> Interval | None:
    """The interval around a predicted step of `plan`.

    Like runs are those on accelerators of the same architecture and with the same setup (sharded
    at use, pipeline, or neither); where these are too few, the same setup on any accelerator, then
    all. `fewest_sources`: in place of those of the pool. None where there are too few of all, and
    for a cluster that was measured: published runs are predicted from data sheets, and say nothing
    of it.
    """
    if cluster.measured is not None:
        return None
    fewest = FEWEST_SOURCES[pool] if fewest_sources is None else fewest_sources
    own = family_of(cluster.accelerator.name)
    for family, setup in ((own, setup_of(plan)), (ANY, setup_of(plan)), (ANY, ANY)):
        for row in residuals.ratios:
            same = (row.pool, row.family, row.setup) == (pool, family, setup)
            if same and row.runs >= FEWEST_RUNS and row.sources >= fewest:
                return Interval(low_s=row.low * step_s, high_s=row.high * step_s, like=row)
    return None


def pairs_like(residuals: Residuals, cluster: Cluster, pool: Pool = "reported") -> Pairs | None:
    """Share of published pairs of similar plans that were ordered correctly.

    On like accelerators or on all. The errors of two plans of one model on one machine have much in
    common, so that their order is better known than either time.
    """
    if cluster.measured is not None:
        return None
    for family in (family_of(cluster.accelerator.name), ANY):
        for row in residuals.pairs:
            if (row.pool, row.family) == (pool, family) and row.sweeps >= FEWEST_SWEEPS:
                return row
    return None


def indistinguishable(trials: Iterable[Trial], best: Trial, pairs: Pairs) -> list[Trial]:
    """Plans whose predicted steps are nearer to `best` than most published pairs were off.

    In sorted order, without `best`. The errors of 20 % of the pairs are larger than the limit; if
    these are as often in favour of the one as of the other, a plan beyond it is slower indeed in
    90 % of cases.
    """
    most_s = pairs.apart * (best.step_s or 0.0)
    near = [
        t for t in trials if t.step_s is not None and t.step_s <= most_s and t.plan != best.plan
    ]
    return sorted(near, key=lambda t: t.step_s or 0.0)
