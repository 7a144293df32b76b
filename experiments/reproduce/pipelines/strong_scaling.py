"""Strong scaling of large models to 16,384 accelerators, as their papers report it."""

from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.cases.read import Case, case_of
from parplan.experiments.reproduce.draw import COLOURS, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import (
    FIGURES_WORDS,
    VALIDATION_WORDS,
    of_groups,
    predicted,
    read_in_paper,
)

LABELS = {
    "megascale": "GPT-3 175B, Megatron-LM on A100 (MegaScale)",
    "mtnlg": "MT-NLG 530B on A100",
    "llama3": "Llama 3 405B on H100",
}


def _llama3_on_16384() -> tuple[Case, float]:
    """The row of 8,192 tokens that the files lack, and its published FLOP/s."""
    (first,) = (c for c in of_groups("llama3") if c.hardware.n_accelerators == 8192)
    table = {
        "id": "llama3-16384",
        "group": "llama3",
        "source_where": read_in_paper("llama3-16384")["source"],
        "precision": first.precision,
        "measured": {},
        "quality": "B",
        "complete": True,
        "core": False,
        **{name: _given(getattr(first, name)) for name in ("model", "hardware", "parallel")},
    }
    table["hardware"]["n_accelerators"] = 16384
    table["parallel"] |= {"dp": 128, "n_microbatches": 16}
    return case_of(table, "llama3-16384"), float(read_in_paper("llama3-16384")["value"])


def _given(part: object) -> dict[str, object]:
    fields = part.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(part, name) for name in fields if getattr(part, name) is not None}


def mfu(outcome: Outcome, step_s: float) -> float:
    """Model FLOP/s over the peak for such a step, with the whole attention matrix counted."""
    assert outcome.request is not None
    workload, cluster = outcome.request.workload, outcome.request.cluster
    peak = cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    return workload.model_flops / step_s / cluster.num_accelerators / peak


def _row(outcome: Outcome, known: float) -> Row:
    case, guess = outcome.case, outcome.step_s or float("nan")
    return {
        "run": LABELS[case.group],
        "accelerators": case.hardware.n_accelerators,
        "batch": case.parallel.global_batch,
        "tokens of a sequence": case.model.seq_len,
        "predicted [s]": guess,
        "published [s]": known,
        "predicted MFU": mfu(outcome, guess),
        "published MFU": mfu(outcome, known),
        "error": relative(guess, known),
    }


def _run(quick: bool) -> Result:
    outcomes = predicted(of_groups(*LABELS))
    rows = [_row(o, o.case.step_s or float("nan")) for o in outcomes]
    (first,) = (o for o in outcomes if o.case.id == "llama3-0001")
    case, flops = _llama3_on_16384()
    # Both runs have the same batch: their times are as their FLOP/s and numbers of GPUs.
    ratio = 430 / flops * first.case.hardware.n_accelerators / case.hardware.n_accelerators
    known_s = (first.case.step_s or float("nan")) * ratio
    (more,) = predicted([case])
    rows.append(_row(more, known_s))
    figure, axes = panels(len(LABELS), 5.0)
    for panel, label in zip(axes, LABELS.values(), strict=True):
        own = [r for r in rows if r["run"] == label and r["tokens of a sequence"] != 131072]
        for batch, colour in zip(sorted({number(r, "batch") for r in own}), COLOURS, strict=False):
            some = sorted((r for r in own if r["batch"] == batch),
                          key=lambda r: number(r, "accelerators"))  # fmt: skip
            at = [number(r, "accelerators") for r in some]
            for which, style in (("predicted", "o-"), ("published", "o")):
                values = [100 * number(r, f"{which} MFU") for r in some]
                face = "white" if which == "predicted" else colour
                panel.plot(at, values, style, color=colour, markerfacecolor=face,
                           label=f"batch {batch:g}, {which}")  # fmt: skip
        sizes(panel, sorted({number(r, "accelerators") for r in own}), "accelerators")
        panel.tick_params(axis="x", labelsize=8)
        panel.set_ylabel("MFU [% of the peak]")
        panel.set_ylim(0, 70)
        panel.set_title(label, loc="left", fontsize=9)
        panel.legend(frameon=False, fontsize=7, ncols=2)
        plain(panel)
    idle = [o.shares.get("bubble", 0.0) for o in (*outcomes, more) if o.case.group == "llama3"]
    words = (
        "Llama 3 does not say how far it interleaves; without, its accelerators are predicted to "
        f"idle for {min(idle):.0%} to {max(idle):.0%} of the step"
    )
    return Result(rows=rows, figure=figure, findings=(words,))


EXPERIMENT = Experiment(
    question="How much efficiency is lost when more accelerators take the same batch?",
    source="Jiang et al. 2024, MegaScale, arXiv:2402.15627, table 2 (its rows of Megatron-LM); "
    "Smith et al. 2022, MT-NLG, arXiv:2201.11990; Llama Team 2024, arXiv:2407.21783, table 4",
    setup="As published. For MegaScale's rows 6 chunks of each rank are recalled, and "
    "recomputation is not stated; Llama 3's own pipeline is taken as 1F1B.",
    published=f"{VALIDATION_WORDS}; of 16,384 accelerators with 8,192 tokens: {FIGURES_WORDS}",
    run=_run,
    seconds=2,
)
