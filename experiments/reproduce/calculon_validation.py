"""Calculon's validation: Korthikanti's steps and memory, by parplan and by Calculon."""

from matplotlib.axes import Axes

from parplan.experiments.reproduce.draw import COLOURS, panels, plain, slanted
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.korthikanti_memory import held_bytes
from parplan.experiments.reproduce.published import (
    CALIBRATION_WORDS,
    FIGURES_WORDS,
    VALIDATION_WORDS,
    of_groups,
    predicted,
    read_in_paper,
)

PEER = {"step error": "Calculon's step error", "memory error": "Calculon's memory error"}


def _row(what: str, unit: str, own: float, peer: float, known: float) -> Row:
    kind = "step" if unit == "s" else "memory"
    row: dict[str, object] = {
        "what": what,
        "unit": unit,
        "parplan": own,
        "Calculon": peer,
        "published": known,
    }
    for column, theirs in PEER.items():
        mine = column.startswith(kind)
        row[column] = relative(own, known) if mine else None
        row[theirs] = relative(peer, known) if mine else None
    return row


def _steps(quick: bool) -> list[Row]:
    """Table 5."""
    theirs = read_in_paper("calculon")["values"]
    found = [c for c in of_groups("korthikanti") if c.hardware.n_accelerators < 2240]
    rows = []
    for outcome in predicted(found[:4] if quick else found):
        case = outcome.case
        name, again = case.model.name.removeprefix("GPT-"), str(case.parallel.recompute)
        step_s, known = outcome.step_s or float("nan"), case.step_s or float("nan")
        rows.append(_row(f"{name}, {again}", "s", step_s, theirs[name][again], known))
    return rows


def _memory(quick: bool) -> list[Row]:
    """Figure 1; the state is the same with and without recomputation."""
    theirs, rows = read_in_paper("calculon-memory"), []
    for own in held_bytes(quick):
        plan, part = str(own["what"]).split(": ")
        name, again = plan.split(", ")
        peer = theirs[part][name]
        if part == "state" and again != "none":
            continue
        value = peer if part == "state" else peer[again]
        words = f"{name}, {part}" + (f", {again}" if part == "activations" else "")
        rows.append(_row(words, "GiB", number(own, "predicted"), value, number(own, "published")))
    return rows


def _bars(axes: Axes, rows: list[Row], column: str, title: str) -> None:
    for shift, name, colour, label in (
        (-0.2, column, COLOURS[0], "parplan"),
        (0.2, PEER[column], "#999999", "Calculon"),
    ):
        values = [100 * number(row, name) for row in rows]
        axes.bar([i + shift for i in range(len(rows))], values, 0.38, color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [str(row["what"]) for row in rows])
    slanted(axes)
    axes.set_ylabel("predicted over published - 1 [%]")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False)
    plain(axes)


def _run(quick: bool) -> Result:
    steps, memory = _steps(quick), _memory(quick)
    figure, (left, right) = panels(2, 6.4, 4.8)
    _bars(left, steps, "step error", "steps (table 5)")
    _bars(right, memory, "memory error", "memory of the first stage (figure 1)")
    return Result(rows=[*steps, *memory], figure=figure)


EXPERIMENT = Experiment(
    question="How close does parplan come to the runs that Calculon was validated on?",
    source="Isaev et al. 2023, Calculon (SC); Korthikanti et al. 2022, arXiv:2205.05198, table 5 "
    "and figure 1",
    setup="GPT of 22, 175, 530 billion and a trillion parameters on 8 to 512 A100, by both "
    "programs as they are shipped.",
    published=f"{VALIDATION_WORDS}, {CALIBRATION_WORDS}; Calculon's predictions: {FIGURES_WORDS}",
    run=_run,
    seconds=4,
)
