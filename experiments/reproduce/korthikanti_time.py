"""Selective recomputation: the time that it saves, of a layer and of whole steps."""

from parplan.experiments.cases.read import case_of
from parplan.experiments.cases.request import request_of
from parplan.experiments.reproduce.draw import pairs, panels, slanted
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import (
    CALIBRATION_WORDS,
    VALIDATION_WORDS,
    of_groups,
    predicted,
    raw,
)
from parplan.sim.cost_model.stage_costs import model_costs

SOURCE = "Korthikanti et al. 2022, Reducing Activation Recomputation, arXiv:2205.05198"


def _layers() -> list[Row]:
    """Table 4: one layer, forward and backward."""
    rows: list[Row] = []
    for table in raw("korthikanti-layer"):
        request = request_of(case_of(table, table["id"]))
        costs = model_costs(request.workload, request.cluster, request.plan)
        plan = request.plan
        (kind,) = set(request.workload.model.layer_kinds)
        layer = costs.blocks[kind, plan.recomputation != "none"]
        back_s = layer.input_gradient_s + layer.weight_gradient_s + layer.recompute_s
        split = ", sequence parallel" if plan.sequence_parallel else ""
        for part, guess, known in (
            ("forward", layer.forward_s, table["measured"]["layer_fwd_ms"] / 1e3),
            ("backward", back_s, table["measured"]["layer_bwd_ms"] / 1e3),
        ):
            what = f"22B layer, {plan.recomputation} recomputation{split}, {part}"
            rows.append(_row("table 4", what, guess, known))
    return rows


def _row(where: str, what: str, guess: float, known: float) -> Row:
    return {
        "where": where,
        "what": what,
        "predicted [s]": guess,
        "published [s]": known,
        "error": relative(guess, known),
    }


def _short(what: str) -> str:
    """A label for the figure."""
    for long, short in (("22B layer, ", ""), (" recomputation", ""), ("sequence parallel", "SP")):
        what = what.replace(long, short)
    return what


def _run(quick: bool) -> Result:
    steps: list[Row] = []
    found = of_groups("korthikanti")
    for outcome in predicted(found[:4] if quick else found):
        case = outcome.case
        what = f"{case.model.name.removeprefix('GPT-')} on {case.hardware.n_accelerators}"
        what = f"{what}, {case.parallel.recompute}"
        steps.append(_row("table 5", what, outcome.step_s or 0.0, case.step_s or 0.0))
    layers = _layers()
    figure, (left, right) = panels(2, 7.0, 4.8)
    for axes, rows, unit, scale in ((left, layers, "ms", 1e3), (right, steps, "s", 1.0)):
        labels = [_short(str(row["what"])) for row in rows]
        pairs(axes, labels, [scale * number(r, "predicted [s]") for r in rows],
              [scale * number(r, "published [s]") for r in rows], f"time [{unit}]")  # fmt: skip
        slanted(axes)
    left.set_title("one layer of 22 billion (table 4)", loc="left", fontsize=10)
    right.set_title("one step (table 5)", loc="left", fontsize=10)
    return Result(rows=[*layers, *steps], figure=figure)


EXPERIMENT = Experiment(
    question="How much time do selective recomputation and sequence parallelism save?",
    source=f"{SOURCE}, tables 4 and 5",
    setup="GPT of 22, 175, 530 billion and a trillion parameters on 8 to 2,240 A100.",
    published=f"{CALIBRATION_WORDS} (layers), {VALIDATION_WORDS} (steps)",
    run=_run,
    seconds=4,
)
