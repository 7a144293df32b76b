"""Weak scaling of full sharding to 2,048 H100: what adding accelerators costs each of them."""

from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.read import Case
from parplan.experiments.reproduce.draw import COLOURS, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import FIGURES_WORDS, made_up, read_in_paper

FEW, MANY = 128, 2048
SIZES = (8, 32, FEW, 512, 1024, MANY)
SPLITS = (1, 2, 4)
DEVICES = {"H100": "NVIDIA H100-SXM5-80GB", "A100-80": "NVIDIA A100-SXM4-80GB"}
SEQUENCES, SEQ_LEN = 2, 4096
LLAMA = {
    **{"name": "Llama-2-7B", "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 32},
    **{"ffn": 11008, "vocab": 32000, "seq_len": SEQ_LEN, "mlp": "swiglu"},
}


def _case(key: str, gpus: int, split: int) -> Case:
    hardware = {"accelerator": DEVICES[key], "accelerators_per_node": 8, "key": key}
    parallel = {
        **{"dp": gpus // split, "tp": split, "pp": 1, "sp": split > 1, "zero_stage": 3},
        **{"micro_batch": SEQUENCES * split, "n_microbatches": 1, "recompute": "none"},
        "global_batch": SEQUENCES * gpus,
    }
    return made_up(
        "torchtitan",
        f"{key}-{gpus}-{split}",
        model=LLAMA,
        hardware=hardware | {"n_accelerators": gpus},
        parallel=parallel,
        precision="bf16",
    )


def _row(outcome: Outcome, key: str, gpus: int, split: int) -> Row:
    assert outcome.request is not None, outcome.reason
    assert outcome.step_s is not None, outcome.reason
    workload, cluster = outcome.request.workload, outcome.request.cluster
    peak = cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    return {
        "accelerator": key,
        "GPUs": gpus,
        "tensor parallel": split,
        "predicted [s]": outcome.step_s,
        "predicted [tokens/s per GPU]": SEQUENCES * SEQ_LEN / outcome.step_s,
        "predicted MFU [%]": 100 * workload.model_flops / outcome.step_s / gpus / peak,
    }


def _with_losses(rows: list[Row]) -> list[Row]:
    """The rows with the rate of a GPU over that on `FEW`, beside what is published of it."""
    kept = 1 + read_in_paper("fsdp-scaling")["loss"]
    start, found = dict[tuple[str, int], float](), list[Row]()
    rate = "predicted [tokens/s per GPU]"
    for row in rows:
        if row["GPUs"] == FEW:
            start[row["accelerator"], row["tensor parallel"]] = row[rate]
    for row in rows:
        of = row["accelerator"], row["tensor parallel"]
        guess = row[rate] / start[of]
        known = kept if (*of, row["GPUs"]) == ("H100", 1, MANY) else None
        found.append(
            {
                **row,
                f"predicted over {FEW} GPUs": guess,
                f"published over {FEW} GPUs": known,
                "error": relative(guess, known),
            }
        )
    return found


def _run(quick: bool) -> Result:
    asked = [("H100", gpus, split) for gpus in SIZES for split in SPLITS]
    asked += [("A100-80", gpus, 1) for gpus in SIZES]
    if quick:
        asked = [one for one in asked if one[1] in (FEW, MANY)]
    rows = _with_losses([_row(evaluate(_case(*one)), *one) for one in asked])
    figure, (axes,) = panels(1, 7.0)
    for split, colour in zip(SPLITS, COLOURS, strict=False):
        own = [r for r in rows if (r["accelerator"], r["tensor parallel"]) == ("H100", split)]
        at = [number(row, "GPUs") for row in own]
        rates = [number(row, "predicted [tokens/s per GPU]") for row in own]
        axes.plot(at, rates, "o-", color=colour, label=f"tensor parallel {split}, predicted")
        if split == 1:
            start = dict(zip(at, rates, strict=True))[FEW]
            published = [start, start * (1 + read_in_paper("fsdp-scaling")["loss"])]
            axes.plot([FEW, MANY], published, "s:", color="#000000",
                      label="tensor parallel 1, published loss from 128 on")  # fmt: skip
    sizes(axes, sorted({number(row, "GPUs") for row in rows}), "H100")
    axes.set_ylabel("tokens/s per GPU")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    plain(axes)
    return Result(rows=rows, figure=figure, findings=_findings(rows))


def _findings(rows: list[Row]) -> tuple[str, ...]:
    """The three facts, predicted beside published."""
    known = read_in_paper("fsdp-scaling")
    rate = {
        (row["accelerator"], row["GPUs"], row["tensor parallel"]): number(
            row, "predicted [tokens/s per GPU]"
        )
        for row in rows
    }
    share = {(r["accelerator"], r["GPUs"]): number(r, "predicted MFU [%]")
             for r in rows if r["tensor parallel"] == 1}  # fmt: skip
    loss = rate["H100", MANY, 1] / rate["H100", FEW, 1] - 1
    best = max(SPLITS, key=lambda split: rate["H100", MANY, split])
    gains = ", ".join(f"{s}: {rate['H100', MANY, s] / rate['H100', MANY, 1] - 1:+.1%}"
                      for s in SPLITS[1:])  # fmt: skip
    ends = ", ".join(
        f"{key} {share[key, FEW]:.1f} % on {FEW} and {share[key, MANY]:.1f} % on {MANY}"
        for key in DEVICES
    )
    wanted = ", ".join(f"{key} {value} %" for key, value in known["mfu"].items())
    return (
        f"tokens/s per GPU from {FEW} to {MANY} H100: predicted {loss:+.1%}, "
        f"published {known['loss']:+.1%}",
        f"fastest tensor parallelism on {MANY} H100: predicted {best} ({gains} over 1), "
        f"published {' to '.join(map(str, known['fastest']))}",
        f"MFU of full sharding alone: predicted {ends}; published {wanted}",
    )


EXPERIMENT = Experiment(
    question="What does full sharding cost as accelerators are added?",
    source=read_in_paper("fsdp-scaling")["source"],
    setup="Llama-2 7B, ZeRO-3, 2 sequences of 4,096 tokens a GPU, 8 GPUs a node. Software as "
    "torchtitan's (assumed: FSDP, FlashAttention-2, fp32 reductions), no recomputation.",
    published=FIGURES_WORDS,
    run=_run,
    seconds=2,
)
