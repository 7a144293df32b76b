"""The search of a training script's plan, told in the log as Advanced Parallelization does."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from parplan.sim.engine.engine import simulate
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import scheduled
from parplan.sim.run import Run

LOG = logging.getLogger("parplan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a search says of the plan that it chose."""

    run: Run
    memory_bytes: tuple[float, ...]
    """Peak of every pipeline rank."""
    one_process_s: float | None
    """The step of one process alone with the same micro-batches."""
    data_parallel_s: float | None
    """The shortest step of data parallelism alone that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The plan that a search chose, and what it says of it."""

    plan: Plan
    prediction: Prediction


def measurable_plans(
    num_processes: int, num_blocks: int, global_batch: int, options: Options
) -> list[Plan]:
    """The plans on so many processes that can be executed and whose parts can be measured.

    DP x PP x micro-batch x schedule x recomputation, with parameters and gradients sharded (ZeRO-2
    and -3) only if the options ask for that; no tensor parallelism. Raises `ParplanError` when the
    batch or the options leave no plan.
    """
    sharded = options.distribute_parameter is True and num_processes > 1
    allowed = replace(constraints_of_options(options), zero_stage=(2, 3) if sharded else (0,))
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


def search(costs: PlanCosts, candidates: Sequence[Plan], options: Options) -> Choice:
    """The candidate with the shortest predicted step among those that fit.

    Raises `ParplanError` with the reason of the first candidate when none fits.
    """
    LOG.info(log.GOT_DATABASES)
    LOG.info(log.num_candidates(len(candidates)))
    LOG.info(log.COMPILE_START)
    report = try_all(costs, candidates, memory_ratio=options.memory_ratio).whole()
    LOG.info(log.compile_time(report.compile_s))
    LOG.info(log.COMPILE_FINISHED)
    LOG.info(log.num_possible(report.num_possible))
    LOG.info(log.SELECT_START)
    LOG.info(log.cost_time(report.cost_s))
    LOG.info(log.SELECT_FINISHED)
    _log_details(report.trials, options.detailed_log)
    if report.best is None:
        raise ParplanError(f"no plan fits in memory: {report.trials[0].reason}")
    return Choice(plan=report.best.plan, prediction=_prediction(costs, report.best, report.trials))


def _prediction(costs: PlanCosts, best: Trial, trials: Sequence[Trial]) -> Prediction:
    plan = best.plan
    alone = Plan(
        num_micro_batches=plan.num_micro_batches * plan.data_parallel,
        batch_per_device=plan.batch_per_device,
        recomputation=plan.recomputation,
    )
    try:
        one_process_s = costs.simulated_s(alone) if plan.num_devices > 1 else None
    except ParplanError:  # a machine of one device that this model of costs does not have
        one_process_s = None
    plain = (t.step_s for t in trials if t.plan.data_parallel == plan.num_devices > 1)
    fitting = [step_s for step_s in plain if step_s is not None]
    return Prediction(
        run=simulate(scheduled(plan).schedule, costs.stages(plan).costs),
        memory_bytes=best.memory_bytes,
        one_process_s=one_process_s,
        data_parallel_s=min(fitting, default=None),
    )


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
