"""Candidates of every kind beside the few that a search by bounds tries, for the page to show."""

import random
from collections.abc import Sequence
from dataclasses import replace

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.checks import check_candidates, check_request
from parplan.planners.spaces.everything import everything, with_options
from parplan.planners.spaces.layouts import sizes_of
from parplan.planners.spaces.make import candidates_of, constraints_of_options
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

MOST = 2500
"""Candidates that are tried at most; of more, one of each layout, then some of those that fit."""


def sampled(workload: Workload, cluster: Cluster, options: Options) -> tuple[list[Trial], str]:
    """Trials of plans of the usual dimensions, within `options`, and what they are in words.

    All degrees, micro-batch sizes, schedules, levels of recomputation and ZeRO stages. Where these
    are more than `MOST` plans, the one that needs the least memory of each layout is tried first,
    and then others, drawn at random, of the layouts where that one fits. Raises `ParplanError`
    where no plan is possible.
    """
    check_request(workload, cluster, options)
    whole = everything(workload, cluster)
    allowed = replace(
        constraints_of_options(Options(memory_ratio_percent=options.memory_ratio_percent)),
        context_parallel=whole.context_parallel,
        expert_parallel=whole.expert_parallel,
    )
    allowed = with_options(allowed, options)
    plans = candidates_of(sizes_of(workload, cluster, allowed), allowed)
    check_candidates(workload, cluster, plans)

    def tried(some: Sequence[Plan]) -> list[Trial]:
        report = exhaustive(
            workload, cluster, some, memory_ratio=options.memory_ratio, workers=1
        ).whole()
        return list(report.trials)

    if len(plans) <= MOST:
        return tried(plans), f"all {len(plans):,} plans of the usual dimensions tried"
    lean: dict[tuple[int, ...], Plan] = {}
    for plan in plans:
        layout = _layout(plan)
        if layout not in lean or _leanness(plan) > _leanness(lean[layout]):
            lean[layout] = plan
    chance = random.Random(0)
    first = list(lean.values())
    trials = tried(first if len(first) <= MOST // 2 else chance.sample(first, MOST // 2))
    fitting = {_layout(trial.plan) for trial in trials if trial.step_s is not None}
    known = {trial.plan for trial in trials}
    others = [plan for plan in plans if _layout(plan) in fitting and plan not in known]
    trials += tried(chance.sample(others, min(len(others), MOST - len(trials))))
    return trials, (
        f"{len(trials):,} of {len(plans):,} plans of the usual dimensions tried: one of each "
        "layout, and others, drawn at random, of the layouts that fit"
    )


def _layout(plan: Plan) -> tuple[int, ...]:
    return (
        *(plan.num_stages, plan.tensor_parallel, plan.context_parallel, plan.expert_parallel),
        *(plan.data_parallel, plan.batch_per_device),
    )


def _leanness(plan: Plan) -> tuple[bool, int, bool, bool]:
    """What saves memory: recomputation, sharding, and an order that keeps few activations."""
    is_full = plan.recomputation == "full"
    return is_full, plan.zero_stage, plan.schedule == "1f1b", plan.recomputation == "selective"
