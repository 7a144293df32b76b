"""Costs of plans for a chain of layers on the processes that run, from measured parts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from parplan.backend.calibration.layer_times import LayerSetting, LayerTimes
from parplan.backend.calibration.machine_costs import MachineCosts
from parplan.backend.models.chain import Chain
from parplan.planners.costs.plan_costs import PlanCosts, Stages
from parplan.sim.cost_model.stage_formula import (
    LayerWork,
    ParameterWork,
    Surroundings,
    costs_of_stage,
)
from parplan.sim.costs import StageCosts
from parplan.sim.memory.peak import StageNeeds, measured_needs
from parplan.sim.plan import Plan


class MeasuredCosts(PlanCosts):
    """Costs and needs of stages by the times and bytes of single layers.

    Of plans with data and pipeline parallelism. What sharded parameters and gradients cost follows
    from the measured all-reduce (Rajbhandari et al. 2020, arXiv:1910.02054, section 7): a gather or
    a scattered reduction sends half as much. What splitting costs is not measured.
    """

    def __init__(
        self,
        chain: Chain,
        times: Mapping[LayerSetting, Sequence[LayerTimes]],
        machine: MachineCosts,
    ) -> None:
        """`times`: of every layer of `chain`, for each setting of the plans asked about."""
        super().__init__(machine.memory_bytes)
        self._chain, self._times, self._machine = chain, times, machine
        self._stages: dict[Plan, Stages] = {}

    def stages(self, plan: Plan) -> Stages:
        """Costs and needs of every stage."""
        # The order in which a stage computes does not change what it costs.
        key = replace(plan, schedule="1f1b", num_micro_batches=1)
        if key not in self._stages:
            self._stages[key] = self._measured(plan)
        return self._stages[key]

    def _measured(self, plan: Plan) -> Stages:
        chain = self._chain
        times = self._times[LayerSetting(plan.batch_per_device, plan.recomputation)]
        counts = list(plan.layers_of_stages(chain.num_blocks))
        counts[0] += chain.num_first
        counts[-1] += chain.num_last
        costs: list[StageCosts] = []
        needs: list[StageNeeds] = []
        first = 0
        for count in counts:
            own = slice(first, first + count)
            parameters = list(nn.ModuleList(chain.layers[own]).parameters())
            costs.append(_stage_costs(plan, times[own], parameters, self._machine))
            needs.append(
                _sharded(
                    measured_needs(
                        parameter_bytes=_num_bytes(parameters),
                        saved_bytes=sum(layer.saved_bytes for layer in times[own]),
                    ),
                    plan,
                    max(_num_bytes(list(layer.parameters())) for layer in chain.layers[own]),
                )
            )
            first += count
        return Stages(tuple(costs), tuple(needs))


def _sharded(needs: StageNeeds, plan: Plan, largest_bytes: float) -> StageNeeds:
    """`needs` of which each of the replicas keeps its part; `largest_bytes`: the largest layer."""
    if plan.zero_stage < 2:
        return needs
    part, zero3 = 1 / plan.data_parallel, plan.zero_stage == 3
    return replace(
        needs,
        parameter_bytes=needs.parameter_bytes * (part if zero3 else 1),
        gradient_bytes=needs.gradient_bytes * part,
        optimizer_bytes=needs.optimizer_bytes * part,
        gathered_parameter_bytes=largest_bytes if zero3 else 0.0,
        gathered_gradient_bytes=largest_bytes,
    )


def _num_bytes(parameters: Sequence[torch.Tensor]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _stage_costs(
    plan: Plan,
    layers: Sequence[LayerTimes],
    parameters: Sequence[torch.Tensor],
    machine: MachineCosts,
) -> StageCosts:
    forward_s = sum(layer.forward_s for layer in layers)
    backward_s = sum(layer.backward_s for layer in layers)
    sharded = plan.zero_stage >= 2
    own = sum(p.numel() for p in parameters) / (plan.data_parallel if sharded else 1)
    optimizer_s = machine.optimizer_s_per_parameter * own
    reduced_s = _reduced_s(plan, _num_bytes([p for p in parameters if p.requires_grad]), machine)
    reduced_s *= 0.5 if sharded else 1.0
    gathered_s = 0.5 * _reduced_s(plan, _num_bytes(parameters), machine) if sharded else 0.0
    costs = costs_of_stage(
        # The schedules that are searched do not split the backward. What overlaps in a stage is
        # measured, so that the stage is one part.
        LayerWork(forward_s, backward_s, weight_gradient_s=0.0, num_layers=1),
        ParameterWork(gathered_s=gathered_s, reduced_s=reduced_s, optimizer_s=optimizer_s),
        Surroundings(
            send_s=layers[-1].output_bytes / machine.bytes_per_s,
            latency_s=machine.latency_s,
            zero_stage=plan.zero_stage,
            reduces_once=plan.num_stages > 1,
        ),
    )
    first_s = sum(layer.first_backward_s - layer.backward_s for layer in layers)
    return replace(costs, first_gradient_extra_s=first_s)


def _reduced_s(plan: Plan, num_bytes: int, machine: MachineCosts) -> float:
    """Seconds of a reduction over the replicas of a stage, from one measured over all processes."""
    replicas, world = plan.data_parallel, plan.num_devices
    if replicas == 1:
        return 0.0
    # A ring moves (n - 1) / n of the buffer per process in 2 (n - 1) steps.
    share = (replicas - 1) / replicas / ((world - 1) / world)
    latency_s = machine.reduce_latency_s * (replicas - 1) / (world - 1)
    return latency_s + share * machine.reduce_s_per_byte * num_bytes
