"""The published logs of Advanced Parallelization: candidates, verdicts, choice, step time."""

from dataclasses import replace
from typing import Any

from parplan._strict import read_json
from parplan.experiments.cases.held_out import PAPERS
from parplan.experiments.reproduce.draw import pairs, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.ap.candidates import ap_candidates
from parplan.planners.ap.log import selected_line
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.report import Report
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import Model, model_preset
from parplan.sim.software.framework import framework
from parplan.sim.workload import Workload

MODELS = {
    "Llama2 13B": "llama2-13b",
    "Llama3 8B": "llama3-8b",
    "Cerebras-GPT 13B": "cerebras-gpt-13b",
    "Mistral 7B v0.1": "mistral-7b",
    "Baichuan2 13B": "baichuan2-13b",
}


def _model(name: str) -> Model:
    if name in MODELS:
        return model_preset(MODELS[name])
    # Qwen1.5 7B has the sizes of Llama-2 7B but for its vocabulary.
    return replace(model_preset("llama2-7b"), name="qwen1.5-7b", vocab_size=151936)


def _search(case: dict[str, Any]) -> tuple[Report, SharedCosts]:
    workload = Workload(
        model=_model(case["model"]),
        seq_len=case["seq_len"],
        global_batch=case["global_batch"],
        framework=framework("fused"),
    )
    cluster, options = cluster_preset(case["cluster"]), Options()
    plans = ap_candidates(workload, cluster, options, case["rule"], case["batch_varied"])
    report = exhaustive(workload, cluster, plans, memory_ratio=options.memory_ratio)
    return report, SharedCosts(workload, cluster)


def _published_trial(
    report: Report, case: dict[str, Any], shared: SharedCosts
) -> tuple[Trial | None, float | None]:
    """The plan that the log selects (of several that it may mean the best), and its step.

    A plan that is predicted not to fit has a step too: AP has run it.
    """
    same = [t for t in report.trials if selected_line(t.plan, case["rule"]) == case["selected"]]
    found = min(same, key=STEP_TIME.energy, default=None)
    if found is None or not found.memory_bytes:
        return found, None
    return found, shared.timed([found])[0].step_s


def _row(case: dict[str, Any]) -> Row:
    report, shared = _search(case)
    best = report.best
    theirs, step_s = _published_trial(report, case, shared)
    chosen = selected_line(best.plan, case["rule"]) if best else ""
    slower = None
    if best and best.step_s and step_s:
        slower = step_s / best.step_s - 1
    return {
        "log": case["id"],
        "candidates": len(report.trials),
        "published candidates": case["num_candidates"],
        "possible": report.num_possible,
        "published possible": case["num_possible"],
        "same choice": chosen == case["selected"],
        "their choice fits": bool(theirs and theirs.fits),
        "their choice is slower by": slower,
        "its step [s]": step_s,
        "published step [s]": case["step_s"],
        "step error": relative(step_s, case["step_s"]),
    }


def _run(quick: bool) -> Result:
    tables: Any = read_json(PAPERS / "ap_cases.json")
    rows = [_row(case) for case in tables["cases"][: 3 if quick else None]]
    figure, (left, right) = panels(2, 6.5, 4.6)
    marks = [f"{i}" for i, _ in enumerate(rows, start=1)]
    pairs(left, marks, [number(r, "possible") for r in rows],
          [number(r, "published possible") for r in rows], "candidates that fit")  # fmt: skip
    left.set_xlabel("log, as numbered in the table")
    timed = [i for i, row in enumerate(rows) if row["published step [s]"]]
    pairs(right, [marks[i] for i in timed], [float(rows[i]["its step [s]"] or 0) for i in timed],
          [float(rows[i]["published step [s]"] or 0) for i in timed], "step [s]")  # fmt: skip
    right.set_xlabel("log, where it has a step time")
    for axes in (left, right):
        plain(axes)
    same = sum(row["candidates"] == row["published candidates"] for row in rows)
    fit = sum(row["possible"] == row["published possible"] for row in rows)
    choice = sum(bool(row["same choice"]) for row in rows)
    fitting = sum(bool(row["their choice fits"]) for row in rows)
    findings = (
        f"number of candidates: equal in {same} of {len(rows)} logs",
        f"number that fits: equal in {fit}; choice: the same in {choice}",
        f"their choice is predicted to fit in {fitting} of {len(rows)}",
    )
    return Result(rows=rows, figure=figure, findings=findings)


EXPERIMENT = Experiment(
    question="Does parplan find the candidates, verdicts and choices of AP's published logs?",
    source="Logs in the documentation of Moreh's MoAI Platform (docs.moreh.io, 2024)",
    setup="AP's own candidates on clusters of MI250 dies with AP's memory limit of 80 %; "
    "Qwen1.5 7B as Llama-2 7B with 151,936 words.",
    published="experiments/papers/ap_cases.json",
    run=_run,
    seconds=2,
)
