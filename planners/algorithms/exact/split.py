"""Uneven splits of a model's layers over the stages of a pipeline.

The ends of a model take time too, so stages with as many blocks each are not equally long. The
split whose slowest stage is fastest is found exactly by dynamic programming over prefixes (the
linear partition problem); it is not always the one whose step is fastest, so single blocks are then
moved between stages as long as the exact step time falls.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import IMPOSSIBLE, Budget, Evaluator, Stopped
from parplan.sim.cost_model.stage_costs import model_costs
from parplan.sim.costs import LayerCosts
from parplan.sim.plan import Plan, check_plan
from parplan.sim.workload import Workload


def even_load(blocks_s: Sequence[float], first_s: float, last_s: float, stages: int) -> list[int]:
    """Numbers of consecutive blocks per stage that minimise the time of the slowest stage.

    `blocks_s`: seconds of each block; `first_s` and `last_s`: what the first and the last stage do
    beside. Every stage gets at least one block. O(stages x blocks^2), exact.
    """
    before = [0.0, *accumulate(blocks_s)]
    count = len(blocks_s)
    best = [first_s + before[n] if n else IMPOSSIBLE for n in range(count + 1)]
    cuts: list[list[int]] = []
    if stages == 1:
        return [count]
    for stage in range(1, stages):
        extra = last_s if stage == stages - 1 else 0.0
        row, cut = [IMPOSSIBLE] * (count + 1), [0] * (count + 1)
        for n in range(stage + 1, count + 1):
            choices = range(stage, n)
            cut[n] = min(choices, key=lambda k: max(best[k], before[n] - before[k] + extra))
            row[n] = max(best[cut[n]], before[n] - before[cut[n]] + extra)
        best = row
        cuts.append(cut)
    sizes, end = [], count
    for cut in reversed(cuts):
        sizes.append(end - cut[end])
        end = cut[end]
    return [end, *sizes[::-1]][:stages]


def balanced(workload: Workload, cluster: Cluster, plan: Plan) -> Plan:
    """`plan` with the split whose slowest stage is fastest.

    Raises `ParplanError` where `plan` does not lay out the workload on the cluster.
    """
    check_plan(plan, workload, cluster.num_accelerators)
    costs = model_costs(workload, cluster, plan)
    again = plan.recomputation != "none" and plan.recomputed_layers is None
    blocks = [_seconds(costs.blocks[kind, again]) for kind in workload.model.layer_kinds]
    ends = _seconds(costs.embedding), _seconds(costs.head)
    return replace(plan, stage_layers=tuple(even_load(blocks, *ends, plan.total_stages)))


def improve_split(
    workload: Workload,
    cluster: Cluster,
    plan: Plan,
    *,
    memory_ratio: float = 0.8,
    evaluations: int = 500,
) -> Trial:
    """The best split found for `plan`: never worse than the even one, and feasible if any was.

    Descent from the even and from the balanced split by moving one block at a time, by exact step
    times. `evaluations`: at most so many splits are tried. Raises `ParplanError` as `balanced`.
    """
    ask = Evaluator(
        workload, cluster, memory_ratio=memory_ratio, budget=Budget(evaluations=evaluations)
    )
    try:
        for start in (replace(plan, stage_layers=None), balanced(workload, cluster, plan)):
            descend(ask, ask(start), workload.model.num_layers)
    except Stopped:
        pass
    return min(ask.trials, key=STEP_TIME.energy)


def descend(ask: Evaluator, trial: Trial, num_layers: int) -> Trial:
    """The best that is reached from `trial` by moving single blocks, each time the best move."""
    while True:
        layers = trial.plan.layers_of_stages(num_layers)
        plans = [replace(trial.plan, stage_layers=split) for split in moves(layers)]
        best = min(ask.many(plans), key=ask.energy, default=trial)
        if ask.energy(best) >= ask.energy(trial):
            return trial
        trial = best


def moves(layers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """One block from any stage that has several to any other."""
    for source, have in enumerate(layers):
        for target in range(len(layers)):
            if target != source and have > 1:
                moved = list(layers)
                moved[source] -= 1
                moved[target] += 1
                yield tuple(moved)


def _seconds(layer: LayerCosts) -> float:
    gradients = layer.input_gradient_s + layer.weight_gradient_s
    return layer.forward_s + layer.recompute_s + gradients
