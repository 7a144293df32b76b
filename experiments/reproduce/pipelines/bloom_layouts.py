"""The layouts that BigScience tried for BLOOM on 384 A100."""

from parplan.experiments.cases.accuracy import ranks_of
from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.reproduce.draw import COLOURS, panels, plain, scatter
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number
from parplan.experiments.reproduce.published import VALIDATION_WORDS, of_groups, predicted
from parplan.sim.memory.peak import GB


def _row(outcome: Outcome) -> Row:
    case, p = outcome.case, outcome.case.parallel
    known_gb = case.peak_memory_bytes / GB if case.peak_memory_bytes else None
    return {
        "model": case.model.name,
        "tensor": p.tp,
        "pipeline": p.pp,
        "data": p.dp,
        "micro-batch": p.micro_batch or 1,
        "predicted [s]": outcome.step_s,
        "published [s]": case.step_s,
        "predicted [GB]": (outcome.reported_bytes or 0.0) / GB,
        "published [GB]": known_gb,
        "out of memory": case.measured.oom,
        "predicted to fit": outcome.fits,
        "step error": outcome.error,
        "memory error": outcome.memory_error,
    }


def _run(quick: bool) -> Result:
    found = of_groups("bloom")
    outcomes = predicted(found[::6] if quick else found)
    rows = [_row(outcome) for outcome in outcomes]
    figure, (left, right) = panels(2, 6.0, 5.2)
    timed = [r for r in rows if r["published [s]"] and r["predicted [s]"]]
    scatter(left, [number(r, "predicted [s]") for r in timed],
            [number(r, "published [s]") for r in timed], "s")  # fmt: skip
    degrees = sorted({(number(r, "tensor"), number(r, "pipeline")) for r in timed})
    by = {d: [r for r in timed if (r["tensor"], r["pipeline"]) == d] for d in degrees}
    for place, (degree, own) in enumerate(by.items()):
        for which, colour, shift in (
            ("published", "#999999", -0.12),
            ("predicted", COLOURS[0], 0.12),
        ):
            values = [number(r, f"{which} [s]") for r in own]
            right.plot([place + shift] * len(values), values, "o", color=colour, alpha=0.6,
                       label=which if degree == degrees[0] else None)  # fmt: skip
    right.set_xticks(range(len(degrees)), [f"{t:g} x {p:g}" for t, p in degrees], fontsize=8)
    right.set_xlabel("tensor x pipeline")
    right.set_ylabel("step [s]")
    right.set_ylim(0, None)
    right.legend(frameon=False)
    plain(right)
    return Result(rows=rows, figure=figure, findings=tuple(_findings(outcomes)))


def _findings(outcomes: list[Outcome]) -> list[str]:
    ranks = ranks_of(outcomes)
    verdicts = [o for o in outcomes if o.fits is not None]
    right = sum(o.fits != o.case.measured.oom for o in verdicts)
    lines = [f"runs that fit or not: {right} of {len(verdicts)} as published"]
    if ranks is not None:
        lines.append(
            f"order within {ranks.sweeps} sweeps: Kendall's tau {ranks.tau:.2f}; the plan "
            f"predicted to be fastest is {ranks.regret:.1%} slower than the fastest measured"
        )
    return lines


EXPERIMENT = Experiment(
    question="Which of the layouts that were tried for BLOOM is fastest, and do they fit?",
    source="BigScience, tr11-176B: chronicles-prequel (sweeps on 384 A100, 2022)",
    setup="GPT of 176 to 196 billion, full recomputation, Megatron-DeepSpeed; the source repeats "
    "runs of equal layouts under other settings (heads, environment).",
    published=VALIDATION_WORDS,
    run=_run,
    seconds=3,
)
