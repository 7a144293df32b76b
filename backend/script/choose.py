"""Searching the best plan for a chain of layers on the processes that run, from measured costs."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from parplan._files import write_whole
from parplan.backend.calibration.layer_times import LayerSetting, LayerTimes
from parplan.backend.calibration.machine_costs import MachineCosts
from parplan.backend.executable import why_not_executable
from parplan.backend.models.chain import Chain
from parplan.errors import ParplanError
from parplan.planners.ap import log as ap_log
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.spaces.options import SCHEDULES, Options
from parplan.planners.spaces.space import divisors
from parplan.sim.cost_model.stage_formula import (
    LayerWork,
    ParameterWork,
    Surroundings,
    costs_of_stage,
)
from parplan.sim.costs import StageCosts
from parplan.sim.fast.fast import fast_step_s
from parplan.sim.memory.peak import GB, micro_batches_in_flight
from parplan.sim.plan import Plan, Recomputation
from parplan.sim.programs.instructions import Schedule
from parplan.sim.schedules import make_schedule
from parplan.sim.step.tape import lower

LOG = logging.getLogger("parplan")

STATE_COPIES = 4
"""Parameter, gradient and the two moments of Adam, all in the parameters' precision."""


def executable_plans(
    num_processes: int, num_blocks: int, global_batch: int, options: Options
) -> list[Plan]:
    """DP x PP x micro-batch x schedule x recomputation on so many processes, all executable.

    Sharded parameters and tensor parallelism are not among them: their costs are not measured.
    Raises `ParplanError` when the batch or the options leave no plan.
    """
    limit = num_blocks if options.pipeline_parallel else 1
    if options.num_stages != "auto":
        limit = min(limit, options.num_stages)
    plans = [
        plan
        for stages in divisors(num_processes)
        if stages <= limit
        for plan in _plans(stages, num_processes // stages, global_batch, options)
        if not why_not_executable(plan, num_processes)
    ]
    if not plans:
        raise ParplanError(
            f"no plan for a global batch of {global_batch} on {num_processes} processes within "
            f"the options (num_stages {options.num_stages}, num_micro_batches "
            f"{options.num_micro_batches}, {num_blocks} blocks)"
        )
    return plans


def _plans(stages: int, replicas: int, global_batch: int, options: Options) -> list[Plan]:
    own, rest = divmod(global_batch, replicas)
    if rest:
        return []
    wanted = options.activation_recomputation
    levels: tuple[Recomputation, ...] = ("none", "selective", "full")
    if wanted != "auto":
        levels = ("selective", "full") if wanted else ("none",)
    return [
        Plan(
            num_stages=stages,
            data_parallel=replicas,
            num_micro_batches=own // size,
            batch_per_device=size,
            schedule=schedule,
            recomputation=level,
        )
        for size in divisors(own)
        if stages == 1 or options.num_micro_batches in ("auto", own // size)
        for schedule in (SCHEDULES if stages > 1 else ("1f1b",))
        for level in levels
    ]


def choose_plan(
    plans: Sequence[Plan],
    chain: Chain,
    times: dict[LayerSetting, tuple[LayerTimes, ...]],
    machine: MachineCosts,
    options: Options,
) -> Plan:
    """The plan with the shortest predicted step among those that fit, logged in AP's words.

    Raises `ParplanError` with the reason of the first candidate when none fits.
    """
    LOG.info(ap_log.GOT_DATABASES)
    LOG.info(ap_log.num_candidates(len(plans)))
    LOG.info(ap_log.COMPILE_START)
    start_s = time.perf_counter()
    compiled = [compile_measured(plan, chain, times, machine, options) for plan in plans]
    LOG.info(ap_log.compile_time(time.perf_counter() - start_s))
    LOG.info(ap_log.COMPILE_FINISHED)
    LOG.info(ap_log.num_possible(sum(not reason for _, _, reason in compiled)))
    LOG.info(ap_log.SELECT_START)
    start_s = time.perf_counter()
    trials = [
        Trial(plan=plan, reason=reason)
        if reason
        else Trial(plan=plan, step_s=fast_step_s(lower(schedule), costs))
        for plan, (schedule, costs, reason) in zip(plans, compiled, strict=True)
    ]
    LOG.info(ap_log.cost_time(time.perf_counter() - start_s))
    LOG.info(ap_log.SELECT_FINISHED)
    log_details(trials, options.detailed_log)
    best = STEP_TIME.best(trials)
    if best is None:
        raise ParplanError(f"no plan fits in memory: {trials[0].reason}")
    return best.plan


def log_details(trials: Sequence[Trial], level: int) -> None:
    """Every candidate and its verdict: in the log (level 1) or in a file (2)."""
    lines = [
        f"{ap_log.selected_line(trial.plan)}, schedule : {trial.plan.schedule}: "
        + (f"not possible: {trial.reason}" if trial.reason else f"{trial.step_s:.6f} s")
        for trial in trials
    ]
    if level == 1:
        for line in lines:
            LOG.info(line)
    elif level == 2:
        write_whole(Path(ap_log.DETAIL_NAME), "".join(f"{line}\n" for line in lines).encode())


def compile_measured(
    plan: Plan,
    chain: Chain,
    times: dict[LayerSetting, tuple[LayerTimes, ...]],
    machine: MachineCosts,
    options: Options,
) -> tuple[Schedule, list[StageCosts], str]:
    """The plan's instruction lists and costs, and why it does not fit ("" if it does)."""
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    layer_times = times[LayerSetting(plan.batch_per_device, plan.recomputation)]
    in_flight = micro_batches_in_flight(schedule, plan.total_stages)
    costs, reason, first = [], "", 0
    counts = list(plan.layers_of_stages(chain.num_blocks))
    counts[0] += chain.num_first
    counts[-1] += chain.num_last
    limit = options.memory_ratio * machine.memory_bytes
    for stage, count in enumerate(counts):
        own = slice(first, first + count)
        parameters = list(nn.ModuleList(chain.layers[own]).parameters())
        num_bytes = sum(p.numel() * p.element_size() for p in parameters)
        costs.append(_stage_costs(plan, layer_times[own], parameters, machine))
        saved = in_flight[stage] * sum(layer.saved_bytes for layer in layer_times[own])
        used = STATE_COPIES * num_bytes + saved
        if used > limit and not reason:
            reason = (
                f"stage {stage}: {used / GB:.1f} of {limit / GB:.1f} GB "
                f"({options.memory_ratio:.0%} of the device); activations {saved / GB:.1f}"
            )
        first += count
    return schedule, costs, reason


def _stage_costs(
    plan: Plan,
    layers: Sequence[LayerTimes],
    parameters: Sequence[torch.Tensor],
    machine: MachineCosts,
) -> StageCosts:
    num_bytes = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    backward_s = sum(layer.backward_s for layer in layers)
    dp = plan.data_parallel
    world = plan.num_devices
    reduce_s = 0.0
    if dp > 1:
        # A ring moves (n - 1) / n of the buffer per process in 2 (n - 1) steps; measured with all.
        share = (dp - 1) / dp / ((world - 1) / world)
        latency_s = machine.reduce_latency_s * (dp - 1) / (world - 1)
        reduce_s = latency_s + share * machine.reduce_s_per_byte * num_bytes
    forward_s = sum(layer.forward_s for layer in layers)
    optimizer_s = machine.optimizer_s_per_parameter * sum(p.numel() for p in parameters)
    costs = costs_of_stage(
        # The schedules that are searched do not split the backward. What overlaps in a stage is
        # measured, so that the stage is one part.
        LayerWork(forward_s, backward_s, weight_gradient_s=0.0, num_layers=1),
        ParameterWork(gathered_s=0.0, reduced_s=reduce_s, optimizer_s=optimizer_s),
        Surroundings(
            send_s=layers[-1].output_bytes / machine.bytes_per_s, latency_s=machine.latency_s
        ),
    )
    first_s = sum(x.first_backward_s - x.backward_s for x in layers)
    return replace(costs, first_gradient_extra_s=first_s)
