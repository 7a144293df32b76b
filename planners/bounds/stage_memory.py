"""Growth of stage times and memory with the number of blocks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from parplan.hardware.network.cluster import Cluster
from parplan.sim.cost_model.stage_costs import model_costs, stage_costs
from parplan.sim.costs import StageCosts
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import StageNeeds, stage_needs
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import scheduled
from parplan.sim.workload import Workload


class StageSize(NamedTuple):
    """One stage: its place, and the blocks from `first` to `end`, without `end`."""

    stage: int
    first: int
    end: int


class StageTables:
    """Costs and needs of the stages that a plan may have, each kind computed once."""

    def __init__(self, workload: Workload, cluster: Cluster, plan: Plan) -> None:
        self.plan = replace(plan, stage_layers=None, recomputed_of_stages=None)
        self._workload = workload
        self._kinds = workload.model.layer_kinds
        self._cluster = cluster
        self._needs: dict[tuple[object, ...], StageNeeds] = {}
        self._costs: dict[tuple[object, ...], StageCosts] = {}

    @cached_property
    def moments(self) -> tuple[Moments, ...]:
        """Those of every rank."""
        return scheduled(self.plan).moments

    def seconds(self, size: StageSize, recomputed: int | None = None) -> float:
        """A forward and a backward of one micro-batch; `recomputed`: blocks, None: all of them."""
        key = *self._key(size), recomputed
        if key not in self._costs:
            plan = self._plan(size, recomputed)
            layers = model_costs(self._workload, self._cluster, plan)
            costs = stage_costs(self._workload, self._cluster, plan, layers)
            self._costs[key] = costs[size.stage]
        own = self._costs[key]
        return own.forward_s + own.input_gradient_s + own.weight_gradient_s

    def needs(self, size: StageSize, recomputed: int | None = None) -> StageNeeds:
        """The memory needs of the stage."""
        key = *self._key(size), recomputed
        if key not in self._needs:
            plan = self._plan(size, recomputed)
            self._needs[key] = stage_needs(self._workload, plan)[size.stage]
        return self._needs[key]

    def peak_bytes(self, size: StageSize) -> float:
        """Peak bytes of a rank that has this stage alone."""
        need = self.needs(size)
        state = need.parameter_bytes + need.gradient_bytes + need.optimizer_bytes
        state += need.gathered_parameter_bytes + need.gathered_gradient_bytes
        counts = self.moments[size.stage].counts.tolist()
        return state + max((held_bytes(need, row) for row in counts), default=0.0)

    def _key(self, size: StageSize) -> tuple[object, ...]:
        """Key of costs and needs: the ends of the model, and the blocks of each kind, in order."""
        stage, first, end = size
        return stage == 0, stage == self.plan.total_stages - 1, self._kinds[first:end]

    def _plan(self, size: StageSize, recomputed: int | None) -> Plan:
        """A plan with such a stage; of the others, it only matters where its blocks begin."""
        stages = self.plan.total_stages
        layers = [0] * stages
        layers[0] = size.first
        layers[size.stage] = size.end - size.first
        again = None
        if recomputed is not None and self.plan.recomputation != "none":
            again = tuple(recomputed if s == size.stage else 0 for s in range(stages))
        return replace(self.plan, stage_layers=tuple(layers), recomputed_of_stages=again)


def held_bytes(need: StageNeeds, counts: Sequence[int]) -> float:
    """Activations of one stage at a moment (`Moments.counts`) of a rank that has it alone."""
    kept, split, running = counts
    held = kept * need.saved_bytes + split * need.recomputed_stage_bytes
    return held + running * need.recomputed_bytes
