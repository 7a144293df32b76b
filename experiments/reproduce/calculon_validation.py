"""Calculon's validation: Korthikanti's steps, by parplan and by Calculon."""

from parplan.experiments.cases.accuracy import errors_of
from parplan.experiments.reproduce.draw import COLOURS, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import (
    FIGURES_WORDS,
    VALIDATION_WORDS,
    of_groups,
    predicted,
    read_in_paper,
)


def _run(quick: bool) -> Result:
    theirs = read_in_paper("calculon")["values"]
    found = [c for c in of_groups("korthikanti") if c.hardware.n_accelerators < 2240]
    rows: list[Row] = []
    for outcome in predicted(found[:4] if quick else found):
        case = outcome.case
        name = case.model.name.removeprefix("GPT-")
        peer = theirs[name][str(case.parallel.recompute)]
        rows.append(
            {
                "model": name,
                "recomputation": case.parallel.recompute,
                "parplan [s]": outcome.step_s,
                "Calculon [s]": peer,
                "published [s]": case.step_s,
                "error": relative(outcome.step_s, case.step_s),
                "Calculon's error": relative(peer, case.step_s),
            }
        )
    figure, (axes,) = panels(1, 8.0)
    for shift, name, colour in ((-0.2, "error", COLOURS[0]), (0.2, "Calculon's error", "#999999")):
        label = "parplan" if name == "error" else "Calculon"
        values = [100 * number(row, name) for row in rows]
        axes.bar([i + shift for i in range(len(rows))], values, 0.38, color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [f"{r['model']}\n{r['recomputation']}" for r in rows])
    axes.set_ylabel("predicted over measured step - 1 [%]")
    axes.legend(frameon=False)
    plain(axes)
    means = [errors_of(number(row, n) for row in rows) for n in ("error", "Calculon's error")]
    (own, peer_errors) = means
    assert own is not None
    assert peer_errors is not None
    words = f"mean absolute error: parplan {own.mean:.1%}, Calculon {peer_errors.mean:.1%}"
    return Result(rows=rows, figure=figure, findings=(words,))


EXPERIMENT = Experiment(
    question="How close does parplan come to the runs that Calculon was validated on?",
    source="Isaev et al. 2023, Calculon (SC); Korthikanti et al. 2022, arXiv:2205.05198, table 5",
    setup="GPT of 22, 175, 530 billion and a trillion parameters on 8 to 512 A100, "
    "by both programs as they are shipped.",
    published=f"{VALIDATION_WORDS}; Calculon's predictions: {FIGURES_WORDS}",
    run=_run,
    seconds=4,
)
