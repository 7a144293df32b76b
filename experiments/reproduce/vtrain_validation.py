"""vTrain's validation: its measured runs on one and on many nodes."""

from parplan.experiments.cases.accuracy import errors_of
from parplan.experiments.cases.held_out import CALIBRATION
from parplan.experiments.cases.read import read_cases
from parplan.experiments.reproduce.draw import panels, scatter
from parplan.experiments.reproduce.experiment import Experiment, Result, Row
from parplan.experiments.reproduce.published import (
    FIGURES_WORDS,
    VALIDATION_WORDS,
    of_groups,
    predicted,
    read_in_paper,
)

GROUPS = {"vtrain-single": "single node", "vtrain-multi": "multi node"}


def _run(quick: bool) -> Result:
    theirs, rows, findings = read_in_paper("vtrain"), list[Row](), []
    fitted = frozenset(case.id for case in read_cases(CALIBRATION))
    figure, axes = panels(2, 5.0, 5.0)
    for panel, (group, words) in zip(axes, GROUPS.items(), strict=True):
        # Of the runs on one node, those that nothing is fitted to.
        found = of_groups(group)
        held_out = [c for c in found if c.id not in fitted]
        outcomes = predicted(held_out[::40] if quick else held_out, words)
        known = [o for o in outcomes if o.error is not None]
        rows += [
            {
                "runs": words,
                "id": o.case.id,
                "predicted [s]": o.step_s,
                "published [s]": o.case.step_s,
                "error": o.error,
            }
            for o in known
        ]
        errors = errors_of(o.error for o in known)
        assert errors is not None
        scatter(panel, [o.step_s or 0 for o in known], [o.case.step_s or 0 for o in known], "s")
        panel.set_title(f"{words}: {errors.count} runs", loc="left", fontsize=10)
        findings.append(
            f"{words}: mean absolute error {errors.mean:.1%} over {errors.count} runs; "
            f"vTrain's own, over its runs: {theirs[words]:.1%}"
        )
    return Result(rows=rows, figure=figure, findings=tuple(findings))


EXPERIMENT = Experiment(
    question="How close does parplan come to the runs that vTrain was validated on?",
    source="Bang et al. 2024, vTrain (MICRO), arXiv:2312.12391; VIA-Research/vTrain",
    setup="GPT models on 1 to 8 A100, and up to 512. Constants of the framework are fitted to "
    "other runs of the same source on one node (split by model and number of accelerators).",
    published=f"{VALIDATION_WORDS}; vTrain's own errors: {FIGURES_WORDS}",
    run=_run,
    seconds=4,
)
