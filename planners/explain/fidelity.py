"""Plans compared at levels of rising fidelity: only the better half of each goes on to the next.

Successive halving: Jamieson and Talwalkar 2016 (arXiv:1502.07943). The levels: a lower bound on the
step, the exact step over links of their own, the step of all replicas over the links that they
share, and, given by the caller, a real run. Each level says how far it is from the one before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.goal import IMPOSSIBLE
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator
from parplan.sim.cluster.replica_links import ClusterLinks
from parplan.sim.cluster.whole_cluster import simulate_cluster
from parplan.sim.cost_model.stage_costs import message_bytes
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan
from parplan.sim.workload import Workload

Outcome = float | str
"""Seconds of a step, or why a plan has none at this level."""

Level = Callable[[Sequence[Plan]], Mapping[Plan, Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One plan: what each level that it came to says of its step."""

    plan: Plan
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """By the name of the level, in order."""

    @property
    def last_s(self) -> float:
        """Seconds at the highest level that has any."""
        known = [value for value in self.outcomes.values() if not isinstance(value, str)]
        return known[-1] if known else IMPOSSIBLE

    def change(self, name: str) -> float | None:
        """Change of the step from the level before; None where one of the two has no step."""
        names = list(self.outcomes)
        if name not in names or names.index(name) == 0:
            return None
        before, here = self.outcomes[names[names.index(name) - 1]], self.outcomes[name]
        return None if isinstance(before, str) or isinstance(here, str) else here / before - 1


def compared(
    plans: Sequence[Plan],
    levels: Mapping[str, Level],
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Standing]:
    """`plans` at the first level, and the better half at each next one, at least two.

    A plan that has no outcome at a level goes on by that of the level before. In the order of the
    highest level that each came to, then of its seconds. Raises `ParplanError` without a plan.
    """
    if not plans:
        raise ParplanError("levels: no plan to compare")
    standings = {plan: Standing(plan=plan) for plan in dict.fromkeys(plans)}
    alive = list(standings)
    for number, (name, level) in enumerate(levels.items()):
        if number > 0:
            alive.sort(key=lambda plan: standings[plan].last_s)
            alive = alive[: max(2, -(-len(alive) // 2))]
        for plan, outcome in level(alive).items():
            known = {**standings[plan].outcomes, name: outcome}
            standings[plan] = Standing(plan=plan, outcomes=known)
        progress(name, number + 1, len(levels))
    return sorted(standings.values(), key=lambda s: (-len(s.outcomes), s.last_s))


def bounds_level(workload: Workload, cluster: Cluster) -> Level:
    """Lower bounds (`parplan.planners.bounds.schedule_bounds`)."""

    def level(plans: Sequence[Plan]) -> dict[Plan, Outcome]:
        evaluator = Evaluator(workload, cluster, memory_ratio=1e3)
        return dict(zip(plans, evaluator.bounds(plans), strict=True))

    return level


def exact_level(workload: Workload, cluster: Cluster) -> Level:
    """Exact sweeps: what a search compares."""

    def level(plans: Sequence[Plan]) -> dict[Plan, Outcome]:
        evaluator = Evaluator(workload, cluster, memory_ratio=1e3)
        trials: list[Trial] = evaluator.many(plans)
        return {t.plan: t.reason if t.step_s is None else t.step_s for t in trials}

    return level


def contended_level(workload: Workload, cluster: Cluster) -> Level:
    """All replicas in the simulator, whose messages between stages share the links of the cluster.

    What goes on within layers is in closed form, as in every prediction.
    """

    def level(plans: Sequence[Plan]) -> dict[Plan, Outcome]:
        return {plan: _contended(workload, cluster, plan) for plan in plans}

    return level


def _contended(workload: Workload, cluster: Cluster, plan: Plan) -> Outcome:
    links = ClusterLinks(cluster=cluster, message_bytes=message_bytes(workload, plan))
    try:
        return simulate_cluster(compile_plan(workload, cluster, plan), links=links).step_s
    except ParplanError as error:
        return str(error)
