"""The runs of Megatron-LM's SC'21 paper as it describes them, and how it counts operations."""

from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.cases.read import Case
from parplan.experiments.reproduce.published import made_up, step_s

SOURCE = "Narayanan et al. 2021, Efficient Large-Scale Language Model Training, arXiv:2104.04473"
UNIT = "TFLOP/s per GPU"

ASSUMED = (
    "Assumed where the paper does not say it: full recomputation, 51,200 words, sequences of "
    "2,048 tokens, DGX A100 nodes of Selene"
)


def tflop_per_s(case: Case, step_seconds: float) -> float:
    """Achieved TFLOP/s per GPU as the paper counts them: equation (3).

    With full recomputation, which is a fourth pass beside the forward and the backward's two.
    """
    layers, hidden, vocab = case.model.layers, case.model.hidden, case.model.vocab
    seq_len, batch = case.model.seq_len, case.parallel.global_batch
    if None in (layers, hidden, vocab, seq_len, batch):
        raise ParplanError(f"{case.id}: its operations cannot be counted")
    passes = 4 if case.parallel.recompute == "full" else 3
    assert layers and hidden and vocab and seq_len and batch  # noqa: PT018 (it was asked above)
    share = 1 + seq_len / (6 * hidden) + vocab / (16 * layers * hidden)
    flops = 24 * passes * batch * seq_len * layers * hidden**2 * share
    return flops / step_seconds / case.hardware.n_accelerators / 1e12


def predicted_tflop_per_s(case: Case) -> float:
    """The same of the predicted step."""
    return tflop_per_s(case, step_s(case))


def gpt_run(
    layers: int, hidden: int, heads: int, devices: int, batch: int, **parallel: Any
) -> Case:
    """A run of a GPT with so many layers on `devices` A100; `parallel` as published runs have it.

    Data parallelism is what is left; micro-batches hold one sequence unless said otherwise.
    """
    tp, pp = parallel.get("tp", 1), parallel.get("pp", 1)
    return made_up(
        "sc21-t1",
        f"GPT {layers} x {hidden}, tensor {tp}, pipeline {pp}, batch {batch}",
        model={
            "name": f"GPT {layers} x {hidden}",
            "seq_len": 2048,
            "layers": layers,
            "hidden": hidden,
            "heads": heads,
            "ffn": 4 * hidden,
            "vocab": 51200,
            "mlp": "gelu",
        },
        hardware={
            "accelerator": "NVIDIA A100-SXM4-80GB",
            "key": "A100-80",
            "n_accelerators": devices,
            "accelerators_per_node": 8,
            "inter_link": "8x InfiniBand HDR 200Gb/s per node",
        },
        parallel={
            "dp": devices // (tp * pp),
            "micro_batch": 1,
            "global_batch": batch,
            "recompute": "full",
            "schedule": "interleaved-1F1B" if parallel.get("vpp") else "1F1B",
            **parallel,
        },
    )
