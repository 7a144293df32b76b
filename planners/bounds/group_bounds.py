"""Lower bounds on the steps of plans that are alike in what their bounds depend on."""

from collections.abc import Callable, Sequence

from parplan.errors import ParplanError
from parplan.planners.bounds.schedule_bounds import memory_bound_bytes, step_bounds_s
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import IMPOSSIBLE
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.ticks import stage_ticks


def group_bounds(
    shared: SharedCosts, plans: Sequence[Plan], limit_bytes: float, why_not: Callable[[Plan], str]
) -> dict[Plan, float]:
    """Lower bounds of steps, in seconds, of plans with as many stages of one placement.

    Infinite for those that `why_not` has a reason against or that cannot fit.
    """
    kind, ranks = schedule_kind(plans[0].schedule), plans[0].num_stages
    found = dict.fromkeys(plans, IMPOSSIBLE)
    least: dict[int, float] = {}
    known: list[Plan] = []
    costs = []
    for plan in plans:
        if why_not(plan):
            continue
        try:
            stages = shared.stages(plan)
        except ParplanError:
            continue
        if id(stages) not in least:
            least[id(stages)] = memory_bound_bytes(kind, ranks, stages.needs)
        if least[id(stages)] <= limit_bytes:
            known.append(plan)
            costs.append(stages.costs)
    if known:
        counts = [plan.num_micro_batches for plan in known]
        bounds = step_bounds_s(kind, ranks, counts, stage_ticks(costs)).tolist()
        found.update(zip(known, bounds, strict=True))
    return found
