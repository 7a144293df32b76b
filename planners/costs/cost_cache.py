"""Cache of the costs that plans of one search share.

A layer's costs do not depend on the schedule or the number of stages, a stage's not on the
schedule, a list on nothing else: a search asks for thousands of plans, but few of each of these.
"""

import threading
from dataclasses import replace
from typing import Any

from parplan.errors import ParplanError
from parplan.hardware.machines.cached_cluster import with_kernel_cache
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_tables import CostTables
from parplan.planners.costs.minimum_tables import RelaxedParts
from parplan.planners.costs.plan_costs import PlanCosts, Stages
from parplan.planners.spaces.constraints import Constraints
from parplan.sim.cost_model.stage_costs import model_costs, stage_costs
from parplan.sim.costs import ModelCosts
from parplan.sim.memory.peak import stage_needs
from parplan.sim.plan import Plan, check_plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload

KEPT_STAGES = 1_000_000
"""The costs of stages are kept until there are so many, of at most about 500 bytes each."""


class SharedCosts(PlanCosts):
    """The parts of a prediction for one workload on one cluster, remembered.

    What is handed to another process is not what was found, but what it is for; a process that gets
    it again remembers what it found.
    """

    def __init__(self, workload: Workload, cluster: Cluster) -> None:
        super().__init__(cluster.accelerator.memory_bytes)
        self.workload = workload
        self.cluster = with_kernel_cache(cluster)
        self.parts = CostTables(workload, self.cluster)
        """For all plans of a space at once."""
        self._given = cluster
        self._relaxed: dict[Constraints, RelaxedParts] = {}
        self._layers: dict[Plan, ModelCosts] = {}
        self._stages: dict[Plan, Stages] = {}
        self._kept_stages = 0

    def __reduce__(self) -> Any:
        return _of_this_thread, (self.workload, self._given)

    def check(self, workload: Workload, cluster: Cluster) -> None:
        """Raise `ParplanError` unless these are what the costs are for."""
        if not self.are_for(workload, cluster):
            raise ParplanError(
                f"shared costs: of {self.workload.model.name} on {self._given.name}, but the plans "
                f"are for another workload or cluster ({workload.model.name} on {cluster.name})"
            )

    def are_for(self, workload: Workload, cluster: Cluster) -> bool:
        """Whether these are what the costs are for."""
        return (workload, cluster) == (self.workload, self._given)

    def parts_of(self, constraints: Constraints) -> CostTables:
        """The parts of the plans of a space; where they have variants, the least of these."""
        if not constraints.has_variants:
            return self.parts
        if constraints not in self._relaxed:
            relaxed = RelaxedParts(self.parts, constraints)
            self._relaxed[constraints] = relaxed
        return self._relaxed[constraints]

    def stages(self, plan: Plan) -> Stages:
        """Costs and needs of every stage; raises `ParplanError` where `plan` cannot be laid out."""
        check_plan(plan, self.workload, self.cluster.num_accelerators)
        # What is accumulated from micro-batch to micro-batch costs more than a single one.
        # Of the schedule it counts alone whether there are two copies of a stage.
        schedule = "1f1b" if schedule_kind(plan.schedule).one_copy else plan.schedule
        key = replace(plan, schedule=schedule, num_micro_batches=min(2, plan.num_micro_batches))
        found = self._stages.get(key)
        if found is None:
            layers = self._layer_costs(key)
            costs = stage_costs(self.workload, self.cluster, plan, layers)
            found = Stages(costs, stage_needs(self.workload, plan))
            self._kept_stages += len(costs)
            if self._kept_stages > KEPT_STAGES:
                self._stages.clear()
                self._kept_stages = len(costs)
            self._stages[key] = found
        return found

    def _layer_costs(self, plan: Plan) -> ModelCosts:
        # Experts are spread over replicas, of which there have to be enough.
        key = replace(
            plan,
            num_stages=1,
            virtual_stages=1,
            stage_layers=None,
            data_parallel=plan.expert_parallel,
            distribute_param=False,
            distribute_gradient=False,
            distribute_low_prec_param=False,
            shard_group=None,
            recomputed_layers=None,
            recomputed_of_stages=None,
            overlap_gradient_reduction=True,
            offload_optimizer=False,
            offload_activations=False,
        )
        if key not in self._layers:
            self._layers[key] = model_costs(self.workload, self.cluster, plan)
        return self._layers[key]

    def simulated_s(self, plan: Plan) -> float:
        """The step time by the simulator itself; nothing that was remembered is used."""
        return predict(compile_plan(self.workload, self._given, plan)).step_s


class _OfWorker(threading.local):
    """State that a worker, a thread of its process, keeps between pieces of work."""

    costs: SharedCosts | None = None


_OF_WORKER = _OfWorker()


def _of_this_thread(workload: Workload, cluster: Cluster) -> SharedCosts:
    own = _OF_WORKER.costs
    if own is None or not own.are_for(workload, cluster):
        own = _OF_WORKER.costs = SharedCosts(workload, cluster)
    return own
