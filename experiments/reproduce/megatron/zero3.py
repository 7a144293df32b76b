"""Megatron-LM's table that sets pipelines with tensor parallelism against ZeRO-3."""

from parplan.experiments.reproduce.draw import COLOURS, curve, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, number, relative
from parplan.experiments.reproduce.megatron.published_runs import SOURCE, UNIT, tflop_per_s
from parplan.experiments.reproduce.published import VALIDATION_WORDS, of_groups, predicted


def _run(quick: bool) -> Result:
    found = [c for c in of_groups("sc21-t2") if not quick or c.hardware.n_accelerators < 1000]
    rows = []
    figure, (axes,) = panels(1, 8.0)
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for outcome in predicted(found):
        case, p = outcome.case, outcome.case.parallel
        guess = tflop_per_s(case, outcome.step_s or float("nan"))
        known = tflop_per_s(case, case.step_s or float("nan"))
        scheme = "ZeRO-3" if p.zero_stage == 3 else "PTD-P"
        gpus = case.hardware.n_accelerators
        rows.append(
            {
                "scheme": scheme,
                "model": case.model.name,
                "GPUs": gpus,
                "micro-batch": p.micro_batch or 1,
                "batch": p.global_batch,
                f"predicted [{UNIT}]": guess,
                f"published [{UNIT}]": known,
                "error": relative(guess, known),
            }
        )
        curves.setdefault(f"{scheme} {case.model.name}", []).append((gpus, guess, known))
    for (label, points), colour in zip(curves.items(), COLOURS, strict=False):
        at, guesses, values = (list(one) for one in zip(*sorted(points), strict=True))
        curve(axes, at, guesses, values, label, colour)
    sizes(axes, sorted({number(row, "GPUs") for row in rows}), "accelerators")
    axes.set_ylabel(f"achieved [{UNIT}]")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    plain(axes)
    return Result(rows=rows, figure=figure)


EXPERIMENT = Experiment(
    question="Does splitting the model beat sharding it (ZeRO-3) as accelerators are added?",
    source=f"{SOURCE}, table 2",
    setup="GPT-3 175B and a GPT of 530 billion on 384 to 2,240 A100, global batch (nearly) fixed.",
    published=f"{VALIDATION_WORDS} (the table does not say how far pipelines are interleaved)",
    run=_run,
    seconds=1,
)
