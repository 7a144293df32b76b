"""Trade-off of the micro-batch size between kernel efficiency and bubble."""

from parplan.experiments.reproduce.draw import COLOURS, curve, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, relative
from parplan.experiments.reproduce.megatron.published_runs import (
    ASSUMED,
    SOURCE,
    UNIT,
    gpt_run,
    predicted_tflop_per_s,
)
from parplan.experiments.reproduce.published import FIGURES_WORDS, read_in_paper


def _run(quick: bool) -> Result:
    figure, (left, right) = panels(2)
    one, many = read_in_paper("sc21-micro-batch-1b"), read_in_paper("sc21-micro-batch")
    rows = []

    def add(what: str, size: int, guess: float, value: float) -> None:
        rows.append(
            {
                "what": what,
                "micro-batch": size,
                f"predicted [{UNIT}]": guess,
                f"published [{UNIT}]": value,
                "error": relative(guess, value),
            }
        )

    guesses = [
        predicted_tflop_per_s(gpt_run(4, 4096, 128, 1, b, micro_batch=b, recompute="none"))
        for b in one["micro_batch"]
    ]
    for size, guess, value in zip(one["micro_batch"], guesses, one["values"], strict=True):
        add("1 billion, one GPU", size, guess, value)
    curve(left, one["micro_batch"], guesses, one["values"], "1 billion", COLOURS[2])
    findings = []
    for batch, colour in zip(("128", "512")[: 1 if quick else 2], COLOURS, strict=False):
        guesses = [
            predicted_tflop_per_s(
                gpt_run(32, 15360, 128, 64, int(batch), tp=8, pp=8, micro_batch=b)
            )
            for b in many["micro_batch"]
        ]
        for size, guess, value in zip(many["micro_batch"], guesses, many[batch], strict=True):
            add(f"91 billion, batch {batch}", size, guess, value)
        curve(right, many["micro_batch"], guesses, many[batch], f"batch {batch}", colour)
        best = many["micro_batch"][guesses.index(max(guesses))]
        known = many["micro_batch"][many[batch].index(max(many[batch]))]
        findings.append(f"91 billion, batch {batch}: {best} is best (published: {known})")
    for axes, title in ((left, "one GPU"), (right, "64 GPUs, tensor 8, pipeline 8")):
        sizes(axes, many["micro_batch"] if axes is right else one["micro_batch"],
              "micro-batch [sequences]")  # fmt: skip
        axes.set_ylabel(f"achieved [{UNIT}]")
        axes.set_ylim(0, 200 if axes is right else 130)
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        plain(axes)
    return Result(rows=rows, figure=figure, findings=tuple(findings))


EXPERIMENT = Experiment(
    question="Which size of micro-batches is best?",
    source=f"{SOURCE}, figures 7 and 16",
    setup="GPT of 1 billion on one A100; of 91 billion (32 layers, hidden size 15,360: assumed) "
    f"on 64. {ASSUMED}; none on one GPU.",
    published=f"{FIGURES_WORDS}: read off the figures",
    run=_run,
    seconds=1,
)
