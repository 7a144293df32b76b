"""Predict a plan: compile it (lists, costs, memory), then simulate it."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.sim.cost_model.stage_costs import model_costs, stage_costs
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.memory.moments import Moments, kept_of, moments_of
from parplan.sim.memory.peak import RankMemory, rank_memory, stage_needs
from parplan.sim.plan import Plan, check_plan
from parplan.sim.programs.instructions import Program
from parplan.sim.run import Run
from parplan.sim.schedules import make_program, schedule_kind, why_not
from parplan.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPlan:
    """A plan compiled for a simulator: each rank's list and memory, each stage's costs."""

    plan: Plan
    schedule: Program
    """With the pairs that overlap."""
    costs: tuple[StageCosts, ...]
    memory: tuple[RankMemory, ...]

    @property
    def peak_bytes(self) -> float:
        """Memory of the fullest rank."""
        return max(rank.total_bytes for rank in self.memory)


class Scheduled(NamedTuple):
    """The lists of a plan, and what follows from them alone."""

    schedule: Program
    moments: tuple[Moments, ...]
    """At which each rank may hold most."""


def schedule_key(plan: Plan) -> tuple[str, int, int, int]:
    """Key of the instruction lists of a plan: plans with equal keys have equal lists."""
    return plan.schedule, plan.num_stages, plan.virtual_stages, plan.num_micro_batches


def scheduled(plan: Plan) -> Scheduled:
    """The lists of `plan`."""
    schedule = make_program(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    return Scheduled(schedule, moments_of(schedule))


def moments_of_size(
    key: tuple[str, int, int, int],
    known: dict[tuple[str, int, int, int], tuple[Moments, ...]] | None = None,
) -> tuple[Moments, ...]:
    """The moments of `scheduled` for a `schedule_key`.

    They come from the lists of as few micro-batches as have the same ones. `known`: those of lists
    that were made before, which it adds to. Raises `ParplanError` where the schedule has no such
    size.
    """
    name, ranks, virtual, count = key
    kind = schedule_kind(name)
    if reason := why_not(name, ranks, count, virtual):
        raise ParplanError(f"{name}: {reason}")
    fewer = 1 if kind.keeps_all else kind.steady(ranks, count, virtual)
    few = name, ranks, virtual, fewer
    known = {} if known is None else known
    if few not in known:
        known[few] = moments_of(make_program(name, ranks, fewer, virtual))
    found = known[few]
    return tuple(map(partial(kept_of, count), found)) if kind.keeps_all else found


def compile_plan(
    workload: Workload, cluster: Cluster, plan: Plan, lists: Scheduled | None = None
) -> CompiledPlan:
    """Lower `plan` for `workload` on `cluster`; raises `ParplanError` if they do not match.

    `lists`: those of a plan with the same `schedule_key`, where they are at hand.
    """
    check_plan(plan, workload, cluster.num_accelerators)
    lists = scheduled(plan) if lists is None else lists
    costs = stage_costs(workload, cluster, plan, model_costs(workload, cluster, plan))
    memory = rank_memory(stage_needs(workload, plan), lists.moments)
    return CompiledPlan(plan=plan, schedule=lists.schedule, costs=costs, memory=memory)


def predict(compiled: CompiledPlan) -> Run:
    """Simulate one training step of a compiled plan."""
    return simulate(compiled.schedule, compiled.costs)
