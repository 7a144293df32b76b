"""Parts of the plans of a space, each computed once by the fields on which it depends.

Layers depend on (tensor, context and expert parallelism, micro-batch, sequence parallelism,
recomputation), parameters on the degrees, the number of stages and ZeRO. The parts are made by the
functions of `parplan.sim` that make them for one plan, so that they are the same numbers.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parplan.hardware.network.cluster import Cluster
from parplan.sim.cost_model.communication import Communication, KnownTimes
from parplan.sim.cost_model.offload import offloaded_bytes
from parplan.sim.cost_model.stage_costs import (
    ModelOps,
    layer_runs,
    layer_work,
    message_bytes,
    model_ops,
    optimizer_s,
    parameter_work,
    plain_costs,
    timing_of,
    with_recomputation,
)
from parplan.sim.cost_model.stage_formula import LayerWork, ParameterWork
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.cost_model.stages import StageLayers, StageParameters, stage_parameters, stages_of
from parplan.sim.costs import LayerCosts, ModelCosts
from parplan.sim.layers.blocks import KnownOps
from parplan.sim.layers.shapes import shapes_of
from parplan.sim.layers.times import MachineTimes
from parplan.sim.memory.peak import (
    Activations,
    ModelBytes,
    State,
    kept_by_blocks,
    model_bytes,
    stage_activations,
    state_of,
)
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload

Key = tuple[object, ...]


class Kinds(NamedTuple):
    """The stages of a pipeline that differ."""

    stages: tuple[StageLayers, ...]
    place: npt.NDArray[np.int64]
    """For each stage which of them it is."""


class CostTables:
    """The parts for one workload on one cluster, remembered. Plans come from one `Space`."""

    def __init__(self, workload: Workload, cluster: Cluster) -> None:
        self.workload = workload
        self.cluster = cluster
        self._kinds: dict[Key, Kinds] = {}
        self._ops: dict[Key, ModelOps] = {}
        self._ops_without_experts: dict[Key, KnownOps] = {}
        self._costs_without_experts: dict[Key, dict[str, LayerCosts]] = {}
        self._bytes: dict[Key, ModelBytes] = {}
        self._activations: dict[Key, Floats] = {}
        self._moved: dict[Key, Floats] = {}
        self._parameters: dict[Key, list[StageParameters]] = {}
        self._states: dict[Key, Floats] = {}
        self._work: dict[Key, Floats] = {}
        self._work_of_stage: dict[Key, ParameterWork] = {}
        self._links: dict[Key, Communication] = {}
        self._times = KnownTimes({}, {}, {})
        self._messages: dict[Key, tuple[float, float]] = {}
        self._costs: dict[Key, ModelCosts] = {}
        self._not_recomputed: dict[Key, tuple[MachineTimes, ModelOps, ModelCosts]] = {}
        self._layers: dict[Key, Floats] = {}

    def kinds(self, plan: Plan) -> Kinds:
        """The stages of `plan` that differ."""
        again = plan.recomputation != "none"
        depth = plan.recomputed_layers if again else None
        key = plan.total_stages, plan.stage_layers, again, depth
        if key not in self._kinds:
            stages = stages_of(self.workload, plan)
            number = {stage: i for i, stage in enumerate(dict.fromkeys(stages))}
            place = np.array([number[stage] for stage in stages], dtype=np.int64)
            self._kinds[key] = Kinds(tuple(number), place)
        return self._kinds[key]

    def activations(self, plan: Plan) -> Floats:
        """`Activations` of every kind of stage, shape [kinds, 3]."""
        key = *layer_key(plan), *stages_key(plan), plan.offload_activations
        if key not in self._activations:
            known = self.layer_bytes(plan)
            stages = self.kinds(plan).stages
            rows = [stage_activations(plan, stage, known) for stage in stages]
            self._activations[key] = np.array(rows).reshape(-1, len(Activations._fields))
        return self._activations[key]

    def states(self, plan: Plan) -> Floats:
        """`State` of every kind of stage, shape [kinds, 5]."""
        key = parameter_key(plan)
        if key not in self._states:
            rows = [state_of(self.workload, plan, own) for own in self._of_kinds(plan)]
            self._states[key] = np.array(rows, dtype=np.float64).reshape(-1, len(State._fields))
        return self._states[key]

    def moved(self, plan: Plan) -> Floats:
        """Bytes that a micro-batch moves to the host if activations are there, shape [kinds]."""
        key = *layer_key(plan), *stages_key(plan)
        if key not in self._moved:
            stages = self.kinds(plan).stages
            known = self.layer_bytes(plan)
            moved = [offloaded_bytes(kept_by_blocks(stage, known)) for stage in stages]
            self._moved[key] = np.array(moved)
        return self._moved[key]

    def layers(self, plan: Plan) -> Floats:
        """`LayerWork` of every kind of stage, shape [kinds, 5]."""
        key = (*layer_key(plan), plan.num_micro_batches > 1)
        key = *key, *stages_key(plan)
        if key not in self._layers:
            costs = self.model_costs(plan)
            runs = [layer_runs(stage, costs) for stage in self.kinds(plan).stages]
            rows = [layer_work(self.workload, plan, own) for own in runs]
            self._layers[key] = np.array(rows).reshape(-1, len(LayerWork._fields))
        return self._layers[key]

    def parameters(self, plan: Plan) -> Floats:
        """`ParameterWork` of every kind of stage, shape [kinds, 3]."""
        key = parameter_key(plan)
        if key not in self._work:
            rows = [self._parameter_work(plan, own) for own in self._of_kinds(plan)]
            self._work[key] = np.array(rows).reshape(-1, len(ParameterWork._fields))
        return self._work[key]

    def optimizer(self, plan: Plan) -> Floats:
        """Seconds of the optimizer on every kind of stage, shape [kinds], by `ParameterWork`."""
        links, step_s = self.links(plan), self.workload.framework.step_s
        own = [optimizer_s(self.workload, plan, links.cluster, p) for p in self._of_kinds(plan)]
        return np.array(own) + step_s

    def _parameter_work(self, plan: Plan, own: StageParameters) -> ParameterWork:
        """The work of a stage with such parameters, of which many plans have an equal one."""
        key = *exchange_key(plan), own
        if key not in self._work_of_stage:
            links = self.links(plan)
            self._work_of_stage[key] = parameter_work(self.workload, plan, links, own)
        return self._work_of_stage[key]

    def message(self, plan: Plan) -> tuple[float, float]:
        """(seconds on the link, latency) of a message to the next stage."""
        key = *_degrees(plan), plan.batch_per_device
        if key not in self._messages:
            neighbour = self.links(plan).neighbour()
            seconds = message_bytes(self.workload, plan) / neighbour.bytes_per_s
            self._messages[key] = seconds, neighbour.latency_s
        return self._messages[key]

    def links(self, plan: Plan) -> Communication:
        """The groups of ranks of plans with the same degrees."""
        key = *_degrees(plan), plan.shard_group
        if key not in self._links:
            self._links[key] = Communication(self.cluster, plan, self._times)
        return self._links[key]

    def _of_kinds(self, plan: Plan) -> list[StageParameters]:
        degrees = plan.tensor_parallel, plan.expert_parallel, plan.expert_tensor_parallel
        key = *degrees, plan.total_stages, plan.stage_layers
        if key not in self._parameters:
            plain = replace(plan, recomputation="none")
            kinds, every = self.kinds(plain), stage_parameters(self.workload, plain)
            _, first = np.unique(kinds.place, return_index=True)
            self._parameters[key] = [every[stage] for stage in first.tolist()]
        return self._parameters[key]

    def model_costs(self, plan: Plan) -> ModelCosts:
        """Model costs as `model_costs` gives them; parts that ignore recomputation only once."""
        key = *layer_key(plan), plan.num_micro_batches > 1
        if key not in self._costs:
            timing, ops, plain = self._plain(plan)
            self._costs[key] = with_recomputation(self.workload, plan, ops, plain, timing)
        return self._costs[key]

    def _plain(self, plan: Plan) -> tuple[MachineTimes, ModelOps, ModelCosts]:
        """Operations and costs of layers that are not recomputed."""
        key = *layer_key(plan)[:-2], plan.num_micro_batches > 1
        if key not in self._not_recomputed:
            accumulate = plan.num_micro_batches > 1
            ops = self._layer_ops(plan, accumulate=accumulate)
            timing = timing_of(self.workload, self.cluster, plan, self._times)
            alike = *_without_experts(plan), plan.overlap_tensor_parallel, accumulate
            known = self._costs_without_experts.setdefault(alike, {})
            self._not_recomputed[key] = timing, ops, plain_costs(ops, timing, known)
        return self._not_recomputed[key]

    def layer_bytes(self, plan: Plan) -> ModelBytes:
        """The activations of every kind of layer."""
        key = layer_key(plan)
        if key not in self._bytes:
            # Bytes are the same whether gradients are accumulated or not.
            ops = self._layer_ops(plan, accumulate=True)
            self._bytes[key] = model_bytes(self.workload, plan, ops)
        return self._bytes[key]

    def _layer_ops(self, plan: Plan, *, accumulate: bool) -> ModelOps:
        alike = *_without_experts(plan), accumulate
        key = *alike, plan.expert_parallel, plan.expert_tensor_parallel
        if key not in self._ops:
            x = shapes_of(self.workload, plan)
            x = replace(x, accumulate=accumulate or x.accumulate)
            known = self._ops_without_experts.setdefault(alike, {})
            self._ops[key] = model_ops(self.workload, x, known)
        return self._ops[key]


def layer_key(plan: Plan) -> Key:
    """Key of the costs and bytes of a layer."""
    return (
        *(plan.tensor_parallel, plan.context_parallel, plan.expert_parallel),
        *(plan.batch_per_device, plan.sequence_parallel, plan.overlap_tensor_parallel),
        *(plan.expert_tensor_parallel, plan.gradient_dtype),
        *(plan.recomputation, plan.recomputed_ops if plan.recomputation == "selective" else ()),
    )


def _without_experts(plan: Plan) -> Key:
    """Key of the operations of layers without experts."""
    return (
        *(plan.tensor_parallel, plan.context_parallel, plan.batch_per_device),
        *(plan.sequence_parallel, plan.gradient_dtype),
    )


def stages_key(plan: Plan) -> Key:
    """Key of the layers of every stage."""
    return plan.total_stages, plan.stage_layers, plan.recomputed_layers


def parameter_key(plan: Plan) -> Key:
    """Key of the parameters of every stage and of their states."""
    return *exchange_key(plan), plan.virtual_stages, plan.stage_layers


def exchange_key(plan: Plan) -> Key:
    """Key of what the parameters of a stage cost and need, given what they are."""
    return (
        *(*_degrees(plan), plan.zero_stage, plan.shard_group, plan.gradient_dtype),
        *(plan.offload_optimizer, plan.overlap_gradient_reduction),
        schedule_kind(plan.schedule).one_copy,
    )


def _degrees(plan: Plan) -> Key:
    return (
        *(plan.tensor_parallel, plan.context_parallel, plan.expert_parallel),
        *(plan.expert_tensor_parallel, plan.num_stages, plan.data_parallel),
    )
