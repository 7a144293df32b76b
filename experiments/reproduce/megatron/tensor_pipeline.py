"""Megatron-LM's figures that set tensor, pipeline and data parallelism against each other."""

from matplotlib.axes import Axes

from parplan.experiments.reproduce.draw import COLOURS, PREDICTED, PUBLISHED, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, relative
from parplan.experiments.reproduce.megatron.published_runs import (
    ASSUMED,
    SOURCE,
    UNIT,
    gpt_run,
    predicted_tflop_per_s,
)
from parplan.experiments.reproduce.published import FIGURES_WORDS, read_in_paper

LARGE, SMALL = (32, 20480, 128), (32, 3840, 32)
"""Layers, hidden size and heads of 162.2 and 5.9 billion parameters."""
DEGREES = (2, 4, 8, 16, 32)


def _row(what: str, batch: int, degrees: dict[str, int], guess: float, known: object) -> Row:
    value = float(str(known)) if known is not None else None
    return {
        "what": what,
        "batch": batch,
        "tensor": degrees.get("tp", 1),
        "pipeline": degrees.get("pp", 1),
        "data": 64 // degrees.get("tp", 1) // degrees.get("pp", 1),
        f"predicted [{UNIT}]": guess,
        f"published [{UNIT}]": value,
        "error": relative(guess, value),
    }


def _large(axes: Axes, batches: tuple[int, ...], rows: list[Row]) -> list[str]:
    paper, findings = read_in_paper("sc21-tensor-pipeline"), []
    for batch, colour in zip(batches, COLOURS, strict=False):
        guesses = {}
        for pp in DEGREES:
            degrees = {"tp": 64 // pp, "pp": pp}
            guesses[pp] = predicted_tflop_per_s(gpt_run(*LARGE, 64, batch, **degrees))
            at_peak = pp == paper["fastest"]["num_stages"]
            known = paper["peaks"][str(batch)] if at_peak else None
            rows.append(_row("tensor and pipeline", batch, degrees, guesses[pp], known))
        labels = [f"({pp}, {64 // pp})" for pp in guesses]
        axes.plot(labels, list(guesses.values()), color=colour, label=f"batch {batch}, predicted",
                  **PREDICTED)  # type: ignore[arg-type]  # fmt: skip
        axes.plot(["(8, 8)"], [paper["peaks"][str(batch)]], color=colour,
                  label=f"batch {batch}, published", **PUBLISHED)  # type: ignore[arg-type]  # fmt: skip
        best = max(guesses, key=lambda pp: guesses[pp])
        findings.append(
            f"162 billion, batch {batch}: pipeline {best} with tensor {64 // best} is fastest "
            "(published: 8 with 8)"
        )
    return findings


def _small(axes: Axes, which: str, batches: tuple[int, ...], rows: list[Row]) -> None:
    field, other = ("pp", "num_stages") if which == "pipeline" else ("tp", "tensor_parallel")
    points = read_in_paper(f"sc21-{which}-data")["points"]
    for batch, colour in zip(batches, COLOURS, strict=False):
        known = {p[other]: p["value"] for p in points if p["global_batch"] == batch}
        guesses = []
        for degree in DEGREES:
            run = gpt_run(*SMALL, 64, batch, **{field: degree})
            guesses.append(predicted_tflop_per_s(run))
            row = _row(f"{which} and data", batch, {field: degree}, guesses[-1], known.get(degree))
            rows.append(row)
        labels = [f"({degree}, {64 // degree})" for degree in DEGREES]
        axes.plot(labels, guesses, color=colour, label=f"batch {batch}, predicted", **PREDICTED)  # type: ignore[arg-type]
        axes.plot([f"({d}, {64 // d})" for d in known], list(known.values()), color=colour,
                  label=f"batch {batch}, published", **PUBLISHED)  # type: ignore[arg-type]  # fmt: skip


def _run(quick: bool) -> Result:
    figure, (left, middle, right) = panels(3, 4.6)
    rows: list[Row] = []
    findings = _large(left, (32,) if quick else (32, 128), rows)
    _small(middle, "pipeline", (32,) if quick else (32, 512), rows)
    _small(right, "tensor", (32,) if quick else (32, 128, 512), rows)
    for axes, names, what in (
        (left, "(pipeline, tensor)", "162 billion parameters"),
        (middle, "(pipeline, data)", "5.9 billion parameters"),
        (right, "(tensor, data)", "5.9 billion parameters"),
    ):
        axes.set_xlabel(f"{names} degrees")
        axes.set_ylabel(f"achieved [{UNIT}]")
        axes.set_ylim(0, 230)
        axes.set_title(what, loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
        plain(axes)
    return Result(rows=rows, figure=figure, findings=tuple(findings))


EXPERIMENT = Experiment(
    question="How should 64 GPUs be split between tensor, pipeline and data parallelism?",
    source=f"{SOURCE}, figures 13, 14 and 15",
    setup=f"GPT of 162.2 and of 5.9 billion parameters on 64 A100. {ASSUMED}.",
    published=f"{FIGURES_WORDS}: peaks and ends of curves that were read off the figures",
    run=_run,
    seconds=1,
)
