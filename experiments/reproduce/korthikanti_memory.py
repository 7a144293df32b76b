"""Selective recomputation: the memory that it saves."""

from dataclasses import replace

from parplan.experiments.cases.read import case_of
from parplan.experiments.cases.request import CaseRequest, request_of
from parplan.experiments.reproduce.draw import pairs, panels, slanted
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.korthikanti_time import SOURCE
from parplan.experiments.reproduce.published import (
    CALIBRATION_WORDS,
    FIGURES_WORDS,
    raw,
    read_in_paper,
)
from parplan.sim.memory.peak import RankMemory
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan

GIB = 2**30


def _first_rank(request: CaseRequest, plan: Plan) -> RankMemory:
    return compile_plan(request.workload, request.cluster, plan).memory[0]


def _row(where: str, what: str, unit: str, guess: float, known: float) -> Row:
    return {
        "where": where,
        "what": what,
        "unit": unit,
        "predicted": guess,
        "published": known,
        "error": relative(guess, known),
    }


def held_bytes(quick: bool) -> list[Row]:
    """Figure 1: what the first stage holds."""
    rows = []
    for table in raw("korthikanti-mem")[: 4 if quick else None]:
        request = request_of(case_of(table, table["id"]))
        memory, known = _first_rank(request, request.plan), table["measured"]
        what = f"{table['model']['name'].removeprefix('GPT-')}, {table['parallel']['recompute']}"
        held = memory.state_bytes / GIB
        rows.append(_row("figure 1", f"{what}: state", "GiB", held, known["param_optimizer_gib"]))
        held = memory.activation_bytes / GIB
        rows.append(_row("figure 1", f"{what}: activations", "GiB", held, known["activation_gib"]))
    return rows


def _shares(quick: bool) -> list[Row]:
    """Figure 7: activations beside those with tensor parallelism alone."""
    rows, known = [], read_in_paper("korthikanti-activations")["values"]
    for table in raw("korthikanti-mem")[: 4 if quick else None : 2]:
        request = request_of(case_of(table, table["id"]))
        base = replace(request.plan, sequence_parallel=False, recomputation="none")
        name = table["model"]["name"].removeprefix("GPT-")
        whole = _first_rank(request, base).activation_bytes
        for way, plan in (
            ("sequence", replace(base, sequence_parallel=True)),
            ("selective", replace(base, recomputation="selective")),
            ("both", replace(base, sequence_parallel=True, recomputation="selective")),
            ("full", replace(base, recomputation="full")),
        ):
            share = _first_rank(request, plan).activation_bytes / whole
            rows.append(_row("figure 7", f"{name}, {way}", "share", share, known[name][way]))
    return rows


def _run(quick: bool) -> Result:
    held, shares = held_bytes(quick), _shares(quick)
    figure, (left, right) = panels(2, 7.0, 4.8)
    activations = [row for row in held if "activations" in str(row["what"])]
    for axes, rows, unit in (
        (left, activations, "activations of the first stage [GiB]"),
        (right, shares, "share of those with tensor parallelism alone"),
    ):
        labels = [str(row["what"]).split(":")[0] for row in rows]
        pairs(axes, labels, [number(r, "predicted") for r in rows],
              [number(r, "published") for r in rows], unit)  # fmt: skip
        slanted(axes)
    left.axhline(80e9 / GIB, color="#d55e00", linewidth=0.9)
    left.annotate("80 GB", (0, 80e9 / GIB), xytext=(0, 3), textcoords="offset points",
                  color="#d55e00", fontsize=8)  # fmt: skip
    return Result(rows=[*held, *shares], figure=figure)


EXPERIMENT = Experiment(
    question="How much memory do selective recomputation and sequence parallelism save?",
    source=f"{SOURCE}, figures 1 and 7",
    setup="GPT of 22, 175, 530 billion and a trillion parameters, tensor 8; the published bars "
    "are worked out, not measured.",
    published=f"{CALIBRATION_WORDS} (figure 1), {FIGURES_WORDS} (figure 7)",
    run=_run,
    seconds=2,
)
