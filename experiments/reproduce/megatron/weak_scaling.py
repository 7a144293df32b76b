"""Megatron-LM's table of weak scaling, from 1.7 billion to a trillion parameters."""

from parplan.experiments.reproduce.draw import curve, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, number, relative
from parplan.experiments.reproduce.megatron.published_runs import SOURCE, UNIT, tflop_per_s
from parplan.experiments.reproduce.published import VALIDATION_WORDS, of_groups, predicted


def _run(quick: bool) -> Result:
    found = of_groups("sc21-t1")
    rows = []
    for outcome in predicted(found[:5] if quick else found):
        case, p = outcome.case, outcome.case.parallel
        guess = tflop_per_s(case, outcome.step_s or float("nan"))
        known = tflop_per_s(case, case.step_s or float("nan"))
        rows.append(
            {
                "model": case.model.name,
                "layers": case.model.layers,
                "hidden": case.model.hidden,
                "tensor": p.tp or 1,
                "pipeline": p.pp or 1,
                "chunks": p.vpp or 1,
                "GPUs": case.hardware.n_accelerators,
                "batch": p.global_batch,
                f"predicted [{UNIT}]": guess,
                f"published [{UNIT}]": known,
                "error": relative(guess, known),
            }
        )
    figure, (axes,) = panels(1, 9.0)
    names = [f"{str(row['model']).removeprefix('GPT-')}\n{row['GPUs']}" for row in rows]
    guesses, values = (
        [number(row, f"{which} [{UNIT}]") for row in rows] for which in ("predicted", "published")
    )
    curve(axes, range(len(rows)), guesses, values, "GPT", "#0072b2")
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlabel("parameters and accelerators")
    axes.set_ylabel(f"achieved [{UNIT}]")
    axes.set_ylim(0, 330)
    axes.axhline(312, color="#999999", label="peak of the A100")
    axes.legend(frameon=False, loc="lower right")
    plain(axes)
    return Result(rows=rows, figure=figure)


EXPERIMENT = Experiment(
    question="How does throughput hold up when the model grows with the cluster?",
    source=f"{SOURCE}, table 1",
    setup="Ten GPT models on 32 to 3,072 A100; FLOP/s count recomputation, as in the paper.",
    published=VALIDATION_WORDS,
    run=_run,
    seconds=3,
)
