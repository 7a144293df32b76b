"""The search of a training script's plan, told in the log as Advanced Parallelization does."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parplan._files import write_whole
from parplan.backend.executable import why_not_executable
from parplan.errors import ParplanError
from parplan.planners.ap import log
from parplan.planners.costs.plan_costs import PlanCosts
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import try_all
from parplan.planners.spaces.layouts import JobSizes
from parplan.planners.spaces.make import candidates_of, constraints_of_options
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan

LOG = logging.getLogger("parplan")


def measurable_plans(
    num_processes: int, num_blocks: int, global_batch: int, options: Options
) -> list[Plan]:
    """The plans on so many processes that can be executed and whose parts can be measured.

    DP x PP x micro-batch x schedule x recomputation; sharded parameters and tensor parallelism are
    not among them. Raises `ParplanError` when the batch or the options leave no plan.
    """
    allowed = replace(constraints_of_options(options), zero_stage=(0,))
    sizes = JobSizes(
        num_devices=num_processes,
        global_batch=global_batch,
        seq_len=1,
        num_layers=num_blocks,
        num_experts=1,
        tensor_degrees=(1,),
        recomputations=allowed.recomputation,
    )
    plans = [
        plan
        for plan in candidates_of(sizes, allowed)
        if not why_not_executable(plan, num_processes)
    ]
    if not plans:
        raise ParplanError(
            f"no plan for a global batch of {global_batch} on {num_processes} processes within "
            f"the options (num_stages {options.num_stages}, num_micro_batches "
            f"{options.num_micro_batches}, {num_blocks} blocks)"
        )
    return plans


def search(costs: PlanCosts, candidates: Sequence[Plan], options: Options) -> Plan:
    """The candidate with the shortest predicted step among those that fit.

    Raises `ParplanError` with the reason of the first candidate when none fits.
    """
    LOG.info(log.GOT_DATABASES)
    LOG.info(log.num_candidates(len(candidates)))
    LOG.info(log.COMPILE_START)
    report = try_all(costs, candidates, memory_ratio=options.memory_ratio)
    LOG.info(log.compile_time(report.compile_s))
    LOG.info(log.COMPILE_FINISHED)
    LOG.info(log.num_possible(report.num_possible))
    LOG.info(log.SELECT_START)
    LOG.info(log.cost_time(report.cost_s))
    LOG.info(log.SELECT_FINISHED)
    _log_details(report.trials, options.detailed_log)
    if report.best is None:
        raise ParplanError(f"no plan fits in memory: {report.trials[0].reason}")
    return report.best.plan


def _log_details(trials: Sequence[Trial], level: int) -> None:
    """Every candidate and its verdict: in the log (level 1) or in a file (2)."""
    lines = [
        f"{log.selected_line(trial.plan)}, schedule : {trial.plan.schedule}: "
        + (f"not possible: {trial.reason}" if trial.reason else f"{trial.step_s:.6f} s")
        for trial in trials
    ]
    if level == 1:
        for line in lines:
            LOG.info(line)
    elif level == 2:
        write_whole(Path(log.DETAIL_NAME), "".join(f"{line}\n" for line in lines).encode())
