"""Traced models against the analytical model of the simulator, which shares no code with them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from parplan.backend.models.trace import trace_chain
from parplan.backend.models.traced_models import trace_config, trace_function, trace_workload
from parplan.errors import ParplanError
from parplan.experiments.commands.predict.trace import analytical_bytes
from parplan.sim.models.hf_config import model_from_hf
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.commands import parplan

SEQ = 512

GATED = {"rms_norm_eps": 1e-5, "hidden_act": "silu"}

CONFIGS = {
    "llama": (
        {
            **GATED,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
            "tie_word_embeddings": False,
        },
        "eager",
        0.02,
    ),
    "mistral": (
        {
            **GATED,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 4,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
            "sliding_window": None,
        },
        "eager",
        0.06,
    ),
    "qwen2": (
        {
            **GATED,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 4,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        "eager",
        0.03,
    ),
    # The simulator takes the normalisation of queries and keys to be one kernel.
    "qwen3": (
        {
            **GATED,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 4,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 32000,
            "tie_word_embeddings": False,
        },
        "eager",
        0.15,
    ),
    "gemma": (
        {
            "rms_norm_eps": 1e-6,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 32000,
        },
        "eager",
        0.06,
    ),
    "gpt2": (
        {
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "vocab_size": 50257,
            "n_positions": 1024,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "activation_function": "gelu",
        },
        "fused",
        0.03,
    ),
}
"""Fields of a config.json, whose kernels keep as much, and how far off that may be. A normalisation
by the mean square is a row of kernels, one by mean and variance is one. Keys and values of grouped
heads are repeated in a trace, because transformers then makes masks that a run goes without."""


@pytest.mark.parametrize("kind", CONFIGS)
def test_hugging_face_models_need_what_the_analytical_model_says(kind, tmp_path):
    pytest.importorskip("transformers")
    fields, kernels, tolerance = CONFIGS[kind]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, **fields}))
    workload = Workload(
        model=model_from_hf(path), seq_len=SEQ, global_batch=2, framework=NO_OVERHEAD
    )
    trace = trace_config(path, workload, batch=2)
    assert trace.parameters == workload.model.num_parameters
    assert trace.flops == pytest.approx(workload.model_flops, rel=1e-12)
    expected = analytical_bytes(workload, 2, fused=kernels == "fused")
    assert trace.saved_bytes == pytest.approx(expected, rel=tolerance)


SMALL = {"hidden_size": 64, "vocab_size": 512}
IN_TUPLES = {
    "bloom": ("n_layer", {**SMALL, "n_head": 4}),
    "falcon": ("num_hidden_layers", {**SMALL, "num_attention_heads": 4, "alibi": False}),
    "mpt": ("n_layers", {"d_model": 64, "vocab_size": 512, "n_heads": 4, "max_seq_len": 128}),
}


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("kind", IN_TUPLES)
def test_layers_that_give_tuples_are_traced_whatever_their_number(kind, layers, tmp_path):
    pytest.importorskip("transformers")
    count, fields = IN_TUPLES[kind]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, count: layers, **fields}))
    workload = Workload(
        model=model_from_hf(path), seq_len=32, global_batch=2, framework=NO_OVERHEAD
    )
    trace = trace_config(path, workload, batch=2)
    assert [layer.kind for layer in trace.layers].count("HfBlock") == layers
    assert trace.flops == pytest.approx(workload.model_flops, rel=1e-12)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_products_of_experts_are_counted(kind, tmp_path):
    pytest.importorskip("transformers")
    experts = {"num_local_experts": 8} if kind == "mixtral" else {"num_experts": 8}
    fields = SMALL | experts | {"num_experts_per_tok": 2, "intermediate_size": 128}
    fields |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields |= {"moe_intermediate_size": 32, "head_dim": 16} if kind == "qwen3_moe" else {}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, **fields}))
    workload = Workload(
        model=model_from_hf(path), seq_len=32, global_batch=2, framework=NO_OVERHEAD
    )
    trace = trace_config(path, workload, batch=2)
    assert trace.parameters == workload.model.num_parameters
    assert trace.flops == pytest.approx(workload.model_flops, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("gpt3-1.3b", 1e-3), ("opt-1.3b", 1e-3), ("megatron2019-1.2b", 1e-3), ("bloom-560m", 0.25)],
)
def test_own_layers_need_what_the_analytical_model_says(name, tolerance):
    model = dataclasses.replace(model_preset(name), num_layers=4)
    workload = Workload(model=model, seq_len=SEQ, global_batch=1, framework=NO_OVERHEAD)
    trace = trace_workload(workload)
    assert trace.parameters == model.num_parameters
    assert trace.flops == pytest.approx(workload.model_flops, rel=1e-12)
    fused = analytical_bytes(workload, 1, fused=True)
    assert trace.saved_bytes == pytest.approx(fused, rel=tolerance)


def test_7b_parameters_are_traced_without_their_memory(tmp_path: Path):
    done = parplan("trace", "llama2-7b", "--json", "layers.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6,738,415,616 parameters (equal), 42.24 TFLOP (equal)" in done.stdout
    layers = json.loads((tmp_path / "layers.json").read_text())["layers"]
    assert [layer["kind"] for layer in layers] == ["Embedding", *["Block"] * 32, "Head"]
    resident = float(done.stderr.split(" GB resident")[0].split()[-1])
    assert resident < 2  # of 13.48 GB of weights


class Pair(nn.Module):
    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), second)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(inputs), targets)


def make_pair():
    return Pair(nn.Linear(4, 4)), torch.zeros(2, 4), torch.zeros(2, 4)


def test_a_module_of_ones_own_is_traced():
    trace = trace_function(f"{__name__}:make_pair")
    assert trace.parameters == 40
    # Two products forward; backward two each: the gradients of inputs and of weights.
    assert trace.flops == 3 * 2 * (2 * 2 * 4 * 4)


class Choosy(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values if values.sum() > 0 else -values


class Two(nn.Module):
    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return values, values


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([nn.Linear(4, 4), nn.Linear(5, 4)], r"layer 1 \(Linear\) cannot be traced on .*\(2, 4\)"),
        (
            [nn.Linear(4, 4), Choosy()],
            r"layer 1 \(Choosy\) cannot be traced .* depends on the values",
        ),
        ([Two(), nn.Linear(4, 4)], "layer 0: Two returns a tuple; layers of a chain pass one"),
    ],
)
def test_a_layer_that_cannot_be_traced_is_named(layers, text):
    with pytest.raises(ParplanError, match=text) as caught:
        trace_chain(layers, nn.functional.mse_loss, torch.zeros(2, 4), torch.zeros(2, 4))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_named_is_refused(tmp_path: Path):
    for arguments, text in (
        (("nowhere:f",), "nowhere:f: cannot be imported"),
        (("mixtral-8x7b",), "mixtral-8x7b: experts cannot be executed yet"),
        (("llama2-7b", "--batch", "0"), "--batch: must be at least 1, got 0"),
    ):
        done = parplan("trace", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert text in done.stderr
