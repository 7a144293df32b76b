"""Strong scaling in MLPerf Training's logs: GPT-3 175B and Llama 3.1 405B."""

from matplotlib.ticker import LogLocator, NullFormatter

from parplan.experiments.cases.read import Case
from parplan.experiments.reproduce.draw import COLOURS, WRITTEN, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import VALIDATION_WORDS, of_groups, predicted

MODELS = ("GPT-3-175B", "Llama-3.1-405B")
KEYS = ("H100", "H200", "GB200", "GB300")


def _rate(case: Case, step_s: float) -> float:
    """Sequences in a second, of all accelerators."""
    return (case.parallel.global_batch or 0) / step_s


def _run(quick: bool) -> Result:
    found = [
        case
        for case in of_groups("mlperf")
        if case.model.name in MODELS and case.hardware.key in KEYS and case.task != "LoRA"
    ]
    rows: list[Row] = []
    for outcome in predicted(found[::4] if quick else found):
        case, guess, known = outcome.case, outcome.step_s, outcome.case.step_s
        if guess is None or known is None:
            continue
        rows.append(
            {
                "model": case.model.name,
                "accelerator": case.hardware.key,
                "accelerators": case.hardware.n_accelerators,
                "batch": case.parallel.global_batch,
                "precision": case.precision,
                "predicted [s]": guess,
                "published [s]": known,
                "predicted [sequences/s]": _rate(case, guess),
                "published [sequences/s]": _rate(case, known),
                "error": relative(guess, known),
            }
        )
    figure, axes = panels(2, 6.5, 4.6)
    for panel, model in zip(axes, MODELS, strict=True):
        own = [row for row in rows if row["model"] == model]
        for key, colour in zip(KEYS, COLOURS, strict=False):
            some = sorted((r for r in own if r["accelerator"] == key),
                          key=lambda r: number(r, "accelerators"))  # fmt: skip
            at = [number(r, "accelerators") for r in some]
            for which, marker in (("predicted", "x"), ("published", "o")):
                values = [number(r, f"{which} [sequences/s]") for r in some]
                if values:
                    panel.plot(at, values, marker, color=colour, alpha=0.8,
                               label=f"{key}, {which}")  # fmt: skip
        at = sorted({number(r, "accelerators") for r in own})
        if at:
            sizes(panel, [n for n in (256, 512, 1024, 2048, 4096, 8192, 16384)
                          if at[0] <= n <= 1.5 * at[-1]] or at, "accelerators")  # fmt: skip
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(WRITTEN)
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_ylabel("sequences per second")
        panel.set_title(model, loc="left", fontsize=10)
        if own:
            panel.legend(frameon=False, fontsize=8)
        plain(panel)
    return Result(rows=rows, figure=figure)


EXPERIMENT = Experiment(
    question="Are MLPerf's largest runs predicted, from 256 to 11,616 accelerators?",
    source="MLPerf Training v3.0 to v5.1, public result logs of NVIDIA GPUs",
    setup="As the logs describe the plans.",
    published=f"{VALIDATION_WORDS}; worked out from the logs, no metric that MLCommons verified",
    run=_run,
    seconds=5,
)
