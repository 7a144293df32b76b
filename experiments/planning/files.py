"""Output files of `parplan plan`."""

from collections.abc import Mapping
from typing import Any

from parplan.experiments.figures.cost_landscape import cost_landscape
from parplan.experiments.figures.gantt import gantt
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.tables import in_a_cell
from parplan.experiments.planning.ap.both_stacks import BothStacks
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.search.report import Report
from parplan.planners.search.run import SearchReport
from parplan.sim.analysis.predicted_timeline import predicted_timeline
from parplan.sim.analysis.streams import with_streams
from parplan.sim.memory.verdict import verdict_on
from parplan.sim.plan_file import plan_table
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Run
from parplan.sim.workload import Workload


def write_report(
    output: OutputFolder, report: Report, title: str, both: BothStacks | None = None
) -> None:
    """Write `trials.csv` and `landscape.png`.

    Every candidate that was tried, or those that were held; the landscape has bounds where a search
    by bounds tried none. `both`: with what another software stack says of the candidates.
    """
    rows = report_rows(report, both)
    output.write_csv("trials.csv", rows)
    lower_bounds = report.cell_lower_bounds if isinstance(report, SearchReport) else {}
    output.write_figure("landscape.png", lambda: cost_landscape(report.trials, title, lower_bounds))


def report_rows(report: Report, both: BothStacks | None = None) -> list[dict[str, Any]]:
    """The rows of `trials.csv`."""
    numbers = report.numbers or range(1, len(report.trials) + 1)
    rows = [trial_row(i, t) for i, t in zip(numbers, report.trials, strict=True)]
    if both is not None:
        rows = [row | both.columns(i) for i, row in enumerate(rows)]
    return rows


def trial_row(number: int, trial: Trial) -> dict[str, Any]:
    """A candidate as a row of `trials.csv`."""
    return {
        "candidate": number,
        **{name: in_a_cell(value) for name, value in trial.plan.to_json().items()},
        "verdict": "fits" if trial.fits else "does not fit",
        "reason": trial.reason,
        "memory_bytes_per_stage": " ".join(f"{b:.0f}" for b in trial.memory_bytes),
        "step_s": "" if trial.step_s is None else repr(trial.step_s),
    }


def write_plan(
    output: OutputFolder,
    workload: Workload,
    cluster: Cluster,
    best: Trial,
    past_accuracy: Mapping[str, Any],
) -> Run:
    """`plan.json`, `timeline.json` and `gantt.png` of the chosen plan; returns its run.

    `past_accuracy`: intervals around its step, for `plan.json`.
    """
    compiled = compile_plan(workload, cluster, best.plan)
    run = predict(compiled)
    prediction = {
        "step_s": run.step_s,
        "bubble": run.bubble,
        "memory_bytes_per_stage": list(best.memory_bytes),
        "memory_verdict": verdict_on(max(best.memory_bytes), cluster.accelerator),
        "past_accuracy": dict(past_accuracy),
    }
    table = plan_table(best.plan, workload, cluster.name)
    output.write_json("plan.json", {**table, "predicted": prediction})
    output.write_trace(predicted_timeline(workload, cluster, compiled, run))
    detailed = with_streams(run, workload, cluster, best.plan)
    output.write_figure("gantt.png", lambda: gantt({"predicted": detailed}))
    return run
