"""What `parplan plan` says of its choice, as data (`summary.json`, `--json`): docs/summary.md.

The schema is stable: a key keeps its meaning and unit, keys are only added, and `schema` counts up
where that cannot be kept. Shares are fractions of 1, times seconds, sizes bytes.
"""

from typing import Any

from parplan.experiments.planning.alternatives import Alternative, grouped, nearest
from parplan.experiments.planning.decision import Decision
from parplan.experiments.planning.explain import PlanChoice
from parplan.planners.explain.plan_words import plan_words
from parplan.planners.explain.uncertainty import Interval, interval
from parplan.planners.search.report import Report
from parplan.planners.search.run import SearchReport
from parplan.sim.analysis.residuals import Residuals
from parplan.sim.memory.verdict import verdict_on
from parplan.sim.run import Run
from parplan.sim.workload import software_of

SCHEMA = "parplan.plan/1"

Table = dict[str, Any]


def summary_of(decision: Decision) -> Table:
    """The whole table of a plan that was found."""
    choice, best = decision.choice, decision.choice.best
    own = next(iter(decision.splits.values()))
    found = nearest(choice, decision.reasons.changes, decision.chosen.goal, own)
    bill = decision.chosen.bill(best)
    return {
        "schema": SCHEMA,
        "text": plan_words(best.plan),
        "plan": best.plan.to_json(),
        "job": _job(decision),
        "predicted": predicted_of(choice, decision.residuals, decision.run),
        "memory": memory_of(choice),
        "time": [
            {"part": part, "seconds": seconds, "share": seconds / own.step_s}
            for part, seconds in sorted(grouped(own).items(), key=lambda item: -item[1])
        ],
        "alternatives": [_alternative(one) for one in found],
        "binds": decision.reasons.binding,
        "close": decision.reasons.close,
        "search": search_table(decision.report, decision.num_candidates),
        "training": None if bill is None else bill.table(),
        "stacks": None if decision.both is None else list(decision.both.lines()),
        "objective": {"name": decision.chosen.name, "lines": decision.chosen.lines(best)},
    }


def nothing_found(report: Report, num_candidates: int, ways: list[str]) -> Table:
    """The table of a search that found no plan that fits. `ways`: what would make one fit."""
    closest = report.closest
    return {
        "schema": SCHEMA,
        "text": None,
        "plan": None,
        "closest": None
        if closest is None
        else {"text": plan_words(closest.plan), "reason": closest.reason},
        "ways_to_fit": ways,
        "search": search_table(report, num_candidates),
    }


def _job(decision: Decision) -> Table:
    workload, cluster = decision.choice.workload, decision.choice.cluster
    return {
        "model": workload.model.name,
        "parameters": workload.model.num_parameters,
        "cluster": cluster.name,
        "accelerator": cluster.accelerator.name,
        "num_accelerators": cluster.num_accelerators,
        "seq_len": workload.seq_len,
        "global_batch": workload.global_batch,
        "tokens_per_step": workload.tokens,
        "precision": "tf32" if workload.tf32 else workload.precision,
        "optimizer": workload.optimizer,
        "software": software_of(workload),
    }


def predicted_of(choice: PlanChoice, residuals: Residuals, run: Run) -> Table:
    """The predicted step, its rates, and how near such predictions were."""
    workload, cluster = choice.workload, choice.cluster
    devices = cluster.num_accelerators
    rate = workload.model_flops / run.step_s / devices
    return {
        "step_s": run.step_s,
        "interval": _interval(interval(residuals, cluster, choice.best.plan, run.step_s)),
        "tokens_per_s": workload.tokens / run.step_s,
        "tokens_per_s_per_accelerator": workload.tokens / run.step_s / devices,
        "mfu": rate / cluster.accelerator.peak_flop_per_s.of(workload.product_dtype),
        "bubble": run.bubble,
    }


def _interval(found: Interval | None) -> Table | None:
    """Within what the measured steps of like published runs were; None where there are too few."""
    if found is None:
        return None
    return {
        "low_s": found.low_s,
        "high_s": found.high_s,
        "share_of_runs": 0.8,
        "runs": found.like.runs,
        "family": found.like.family,
        "setup": found.like.setup,
    }


def memory_of(choice: PlanChoice) -> Table:
    """Memory of the fullest device against what it has, and what a plan may use of it."""
    device = choice.cluster.accelerator.memory_bytes
    peaks = choice.best.memory_bytes
    return {
        "peak_bytes": max(peaks),
        "device_bytes": device,
        "share": max(peaks) / device,
        "verdict": verdict_on(max(peaks), choice.cluster.accelerator),
        "limit_bytes": choice.memory_ratio * device,
        "limit_share": choice.memory_ratio,
        "fullest_rank": peaks.index(max(peaks)),
        "peak_bytes_per_rank": list(peaks),
    }


def _alternative(one: Alternative) -> Table:
    return {
        "text": plan_words(one.trial.plan),
        "differs": one.differs,
        "plan": one.trial.plan.to_json(),
        "step_s": one.trial.step_s,
        "extra_share": one.extra_share,
        "pace": one.pace,
        "fits": one.fits,
        "reason": one.reason,
        "peak_bytes": max(one.trial.memory_bytes, default=None),
    }


def search_table(report: Report, num_candidates: int) -> Table:
    """What a search did, and how it ended."""
    found: Table = {
        "planner": "exhaustive",
        "seed": None,
        "candidates": num_candidates,
        "evaluated": report.num_tried or len(report.trials),
        "bounds": 0,
        "fitting": report.num_possible,
        "proven": report.stopped == "finished",
        "gap": None,
        "stopped": report.stopped,
    }
    if isinstance(report, SearchReport):
        found |= {
            "planner": report.planner,
            "seed": report.seed,
            "evaluated": report.num_asked,
            "bounds": report.num_bounds,
            "proven": report.proven,
            "gap": report.gap,
        }
    return found
