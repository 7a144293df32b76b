"""Megatron-LM's figure of the interleaved schedule."""

from parplan.experiments.reproduce.draw import COLOURS, curve, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, relative
from parplan.experiments.reproduce.megatron.published_runs import (
    ASSUMED,
    SOURCE,
    UNIT,
    gpt_run,
    predicted_tflop_per_s,
)
from parplan.experiments.reproduce.published import FIGURES_WORDS, read_in_paper

CHUNKS = 2
"""Of each rank in the interleaved schedule: the paper does not print it for this figure."""


def _run(quick: bool) -> Result:
    known = read_in_paper("sc21-interleaving")
    figure, (axes,) = panels(1, 6.5)
    rows = []
    for (name, vpp), colour in zip(
        (("non-interleaved", None), ("interleaved", CHUNKS)), COLOURS, strict=False
    ):
        batches = known["global_batch"][: 2 if quick else None]
        guesses = [
            predicted_tflop_per_s(gpt_run(96, 12288, 96, 96, b, tp=8, pp=12, vpp=vpp))
            for b in batches
        ]
        for batch, guess, value in zip(batches, guesses, known[name], strict=False):
            rows.append(
                {
                    "schedule": name,
                    "batch": batch,
                    f"predicted [{UNIT}]": guess,
                    f"published [{UNIT}]": value,
                    "error": relative(guess, value),
                }
            )
        curve(axes, batches, guesses, known[name][: len(batches)], name, colour)
    axes.set_xlabel("global batch [sequences]")
    axes.set_ylabel(f"achieved [{UNIT}]")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, loc="lower right")
    plain(axes)
    return Result(rows=rows, figure=figure, findings=(_gains(rows),))


def _gains(rows: list[dict[str, object]]) -> str:
    """Gain of interleaving at the smallest and the largest batch."""
    half = len(rows) // 2
    words = []
    for place in (0, half - 1):
        plain_row, other = rows[place], rows[place + half]
        gains = [
            float(str(other[f"{w} [{UNIT}]"])) / float(str(plain_row[f"{w} [{UNIT}]"])) - 1
            for w in ("predicted", "published")
        ]
        words.append(f"{gains[0]:+.0%} (published {gains[1]:+.0%}) at batch {other['batch']}")
    return f"interleaving gains {' and '.join(words)}"


EXPERIMENT = Experiment(
    question="How much does interleaving gain, and when?",
    source=f"{SOURCE}, figure 12",
    setup=f"GPT-3 175B on 96 A100, tensor 8, pipeline 12, {CHUNKS} chunks (assumed). {ASSUMED}.",
    published=f"{FIGURES_WORDS}: read off the figure",
    run=_run,
    seconds=1,
)
