"""Model presets: parameter counts as published."""

from dataclasses import replace
from pathlib import Path

import pytest

from parplan.hardware.errors import ParplanError
from parplan.sim.model import (
    LatentAttention,
    MixtureOfExperts,
    model_preset,
    model_presets,
)
from parplan.sim.workload import Workload

PUBLISHED = {
    # Exact: the sum of the tensors of the published checkpoints.
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    # Without the 58 x 256 numbers by which its router balances the experts.
    "deepseek-v3": 671_026_419_200 - 58 * 256,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_checkpoints(name: str) -> None:
    assert model_preset(name).num_parameters == PUBLISHED[name]


@pytest.mark.parametrize(("name", "billions"), [("gpt3-175b", 175), ("llama3-405b", 405)])
def test_parameters_as_named(name: str, billions: float) -> None:
    assert model_preset(name).num_parameters == pytest.approx(billions * 1e9, rel=0.01)


def test_every_preset_names_its_source() -> None:
    assert all(model.source for model in model_presets().values())


def test_an_unknown_model_suggests_near_ones() -> None:
    with pytest.raises(ParplanError, match=r"unknown model 'llama2-13'; did you mean .*llama2-13b"):
        model_preset("llama2-13")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_layers = 0", "num_layers: must be at least 1, got 0"),
        ("num_layers = 2.5", r"num_layers: expected int, got 2.5"),
        ("num_layers = true", r"num_layers: expected int, got True"),
        ("num_layer = 2", "unknown key 'num_layer'"),
        ("", "missing key 'num_layers'"),
        ("num_layers = ", "not valid TOML"),
    ],
)
def test_a_malformed_preset_is_refused_by_file_and_key(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        f"""[mine]
hidden_size = 64
num_heads = 4
num_kv_heads = 4
ffn_size = 256
vocab_size = 100
mlp = "plain"
norm = "layernorm"
bias = true
tied_embeddings = false
source = "test"
{line}
"""
    )
    with pytest.raises(ParplanError, match=message) as error:
        model_presets(path)
    assert str(path) in str(error.value)


def test_model_flops_of_gpt3() -> None:
    # Narayanan et al. 2021, equation 3 without recomputation (factor 72 instead of 96):
    # 72 B s l h^2 (1 + s / 6h + V / 12 l h), for a batch of 1,536 sequences of 2,048 tokens.
    workload = Workload(model=model_preset("gpt3-175b"), seq_len=2048, global_batch=1536)
    m = workload.model
    s, layers, h, v = 2048, m.num_layers, m.hidden_size, m.vocab_size
    paper = 72 * 1536 * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert workload.model_flops == pytest.approx(paper, rel=1e-9)


def test_positions_limit_the_sequence() -> None:
    with pytest.raises(ParplanError, match="2048 positions, got 4096"):
        Workload(model=model_preset("gpt3-175b"), seq_len=4096, global_batch=1)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x7b", 12.9), ("deepseek-v3", 37)],  # arXiv:2401.04088 and arXiv:2412.19437
)
def test_parameters_that_a_token_meets(name: str, billions: float) -> None:
    model = model_preset(name)
    active = sum(model.active_matrix_parameters(kind) for kind in model.layer_kinds)
    tables = model.embedding_parameters + model.head_parameters
    assert active + tables == pytest.approx(billions * 1e9, rel=0.02)


def test_layers_with_experts_begin_after_the_dense_ones_and_may_alternate() -> None:
    deepseek = model_preset("deepseek-v3")
    assert deepseek.layer_kinds == ("dense",) * 3 + ("moe",) * 58
    every_second = replace(deepseek.moe, every=2, first_dense_layers=1)
    assert replace(deepseek, moe=every_second).layer_kinds[:4] == ("dense", "dense", "moe", "dense")


def test_experts_are_checked() -> None:
    with pytest.raises(ParplanError, match="top_k: 9 of 8 experts"):
        MixtureOfExperts(num_experts=8, top_k=9, ffn_size=4)
    with pytest.raises(ParplanError, match="kv_rank: must be at least 1"):
        LatentAttention(kv_rank=0, nope_size=1, rope_size=1, value_size=1)
