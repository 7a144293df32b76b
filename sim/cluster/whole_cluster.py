"""A training step of a whole cluster: every replica of a plan's pipeline, and stragglers.

`parplan.sim.engine.engine` simulates one replica and takes the others as equal. Here each replica
has its own streams, and some of its ranks may be slower than others. The gradients of a stage are
reduced when the last of its replicas is ready, and sharded parameters are gathered when the last
one has them, so a straggler delays its whole group. Replicas that are alike do the same at the same
time: one of each kind is simulated for all (`folded`), with the same result to the picosecond.

What goes on within every layer is part of the costs of stages, as there: parameters that are
gathered for each use (ZeRO-3) do not make other replicas wait for a straggler's before the end of
the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.hardware.network.placement import Placement
from parplan.sim.cluster.cluster_layout import (
    Slowdowns,
    check_placement,
    default_placement,
    replica_slowdowns,
)
from parplan.sim.cluster.replica_links import (
    ClusterLinks,
    Routes,
    cell_key,
    cells,
    routes_of,
    sharing_links,
)
from parplan.sim.cluster.replica_simulation import MakeLinks, ReplicaTimes, simulate_replicas
from parplan.sim.costs import StageCosts
from parplan.sim.engine.group_reduction import GroupEnd, finish_group
from parplan.sim.engine.links import OwnLinks
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.programs.arrays import ActionArrays, action_arrays, check_arrays
from parplan.sim.programs.instructions import Schedule, computations
from parplan.sim.run import Run
from parplan.sim.schedules import schedule_kind
from parplan.sim.step.recording import StepRecord, as_run
from parplan.sim.ticks import PS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaClass:
    """Replicas that do the same at the same time."""

    replicas: tuple[int, ...]
    """Their data-parallel places."""
    slowdowns: Slowdowns
    """By pipeline rank."""
    run: Run
    """What each of them does; `step_s` is that of the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRun:
    """One training step of a whole cluster."""

    step_s: float
    classes: tuple[ReplicaClass, ...]
    """By the first of their replicas."""
    num_ranks: int
    """Accelerators."""

    @property
    def num_replicas(self) -> int:
        """Pipelines side by side."""
        return sum(len(found.replicas) for found in self.classes)

    def run_of(self, replica: int) -> Run:
        """The run of one replica; raises `ParplanError` for one that there is not."""
        for found in self.classes:
            if replica in found.replicas:
                return found.run
        raise ParplanError(f"replica {replica}: there are 0 to {self.num_replicas - 1}")


def simulate_cluster(
    compiled: CompiledPlan,
    *,
    slowdown: Mapping[int, float] | None = None,
    placement: Placement | None = None,
    links: ClusterLinks | None = None,
    folded: bool = True,
) -> ClusterRun:
    """Simulate all replicas of `compiled`.

    `slowdown`: by rank of the cluster, how many times as long its computations take. `placement`:
    where ranks sit; tensor, context, data, pipeline from the inside if None. `links`: what messages
    between stages share; a link for each pair of ranks if None. `folded`: whether one replica of
    each kind is simulated, or all. Raises `ParplanError` for a rank that there is not, a placement
    that is not the plan's, or lists that `simulate` refuses.
    """
    plan = compiled.plan
    placement = default_placement(plan) if placement is None else placement
    check_placement(placement, plan)
    schedule = computations(compiled.schedule)
    if schedule != compiled.schedule or not schedule_kind(plan.schedule).one_copy:
        raise ParplanError(
            f"schedule {plan.schedule}: overlapped pairs or stages on 2 ranks cannot be simulated "
            "with all replicas yet"
        )
    lists = action_arrays(schedule)
    check_arrays(lists, len(compiled.costs))
    slowdowns = replica_slowdowns(plan, placement, slowdown or {})
    routes: list[Routes] = []
    if links is not None:
        everyone = range(plan.data_parallel)
        routes = [routes_of(links, placement, schedule, d) for d in everyone]
    kinds = kinds_of_replicas(slowdowns, routes) if folded else [[d] for d in range(len(slowdowns))]
    chosen = [kind[0] for kind in kinds]
    make_links: MakeLinks = OwnLinks
    if links is not None:
        make_links = sharing_links(links, [routes[d] for d in chosen], len(schedule))
    own = [slowdowns[d] for d in chosen]
    times = simulate_replicas(schedule, compiled.costs, own, make_links)
    ended = _finish(schedule, compiled.costs, own, times, lists)
    end_ps = max(end for group in ended for end in group.end_ps)
    classes = tuple(
        ReplicaClass(
            replicas=tuple(sorted(kind)),
            slowdowns=own[place],
            run=as_run(lists, _step_record(place, times, ended, end_ps)),
        )
        for place, kind in enumerate(kinds)
    )
    return ClusterRun(step_s=end_ps / PS_PER_S, classes=classes, num_ranks=plan.num_devices)


def kinds_of_replicas(
    slowdowns: Sequence[Slowdowns], routes: Sequence[Routes] = ()
) -> list[list[int]]:
    """Replicas that are alike, by the first of each kind; those may stand for all.

    With shared links, given by their routes: those at the same place in sets of replicas that are
    alike, of which the first of each kind make up whole sets.
    """
    found: dict[object, list[int]] = {}
    if not routes:
        for replica, factors in enumerate(slowdowns):
            found.setdefault(factors, []).append(replica)
        return list(found.values())
    for cell in cells(routes):
        key = cell_key(cell, routes, slowdowns)
        for place, replica in enumerate(cell):
            found.setdefault((key, place), []).append(replica)
    return sorted(found.values(), key=lambda kind: kind[0])


def _finish(
    schedule: Schedule,
    costs: Sequence[StageCosts],
    slowdowns: Sequence[Slowdowns],
    times: ReplicaTimes,
    lists: ActionArrays,
) -> list[GroupEnd]:
    """Simulate the gradient reduction and optimizer of the replicas of each pipeline rank."""
    ended = []
    for rank, actions in enumerate(schedule):
        own = slice(int(lists.first[rank]), int(lists.first[rank + 1]))
        factors = [factor[rank] for factor in slowdowns]
        ended.append(
            finish_group(rank, actions, costs, factors, times.start[:, own], times.end[:, own])
        )
    return ended


def _step_record(
    place: int, times: ReplicaTimes, ended: Sequence[GroupEnd], end_ps: int
) -> StepRecord:
    """One replica of those that were simulated."""
    spans = [span for group in ended for span in (*group.reductions, *group.own[place])]
    return StepRecord(
        start=times.start[place],
        end=times.end[place],
        send_start=times.send_start[place],
        send_end=times.send_end[place],
        spans=spans,
        end_ps=end_ps,
    )
