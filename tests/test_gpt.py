"""The models that are run are the models that are planned."""

import dataclasses

import pytest
import torch

from parplan.backend.executable import why_not_built
from parplan.backend.gpt import gpt_layers, initialise, language_loss
from parplan.hardware.errors import ParplanError
from parplan.sim.model import model_preset, model_presets

PRESETS = [m for m in model_presets().values() if not why_not_built(m)]
TINY = model_preset("gpt-tiny")


@pytest.mark.parametrize("model", PRESETS, ids=lambda model: model.name)
def test_the_layers_have_the_parameters_that_are_counted(model) -> None:
    with torch.device("meta"):
        layers = gpt_layers(dataclasses.replace(model, num_layers=2), seq_len=64)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    block = model.block_parameters
    assert counts == [model.embedding_parameters, block, block, model.head_parameters]


def logits(seed: int, attention="flash", **changes) -> torch.Tensor:
    model = dataclasses.replace(TINY, num_layers=2, **changes)
    layers = gpt_layers(model, 16, attention)
    initialise(layers, seed)
    values = torch.arange(32).reshape(2, 16) % model.vocab_size
    for layer in layers:
        values = layer(values)
    return values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp": "gated", "norm": "rmsnorm", "bias": False},
        {"learned_positions": 0},
        {"num_kv_heads": 2, "learned_positions": 0},
    ],
)
def test_flash_and_unfused_attention_agree(changes) -> None:
    torch.testing.assert_close(logits(0, **changes), logits(0, "unfused", **changes))


def test_a_token_sees_no_later_one() -> None:
    layers = gpt_layers(dataclasses.replace(TINY, num_layers=1), 8)
    initialise(layers, 0)

    def first_half(last_token: int) -> torch.Tensor:
        values = torch.tensor([[1, 2, 3, last_token]])
        for layer in layers:
            values = layer(values)
        return values[:, :3]

    torch.testing.assert_close(first_half(4), first_half(5), rtol=0, atol=0)


def test_the_seed_makes_the_weights() -> None:
    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


def test_the_loss_of_equal_logits_is_that_of_guessing() -> None:
    loss = language_loss(torch.zeros(2, 3, 10), torch.ones(2, 3, dtype=torch.int64))
    torch.testing.assert_close(loss, torch.tensor(10.0).log())


def test_tied_embeddings_are_refused() -> None:
    with pytest.raises(ParplanError, match="tied embeddings cannot be executed"):
        gpt_layers(dataclasses.replace(TINY, tied_embeddings=True), 8)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mixtral-8x7b", "experts"),
        ("deepseek-v3", "experts"),
        ("qwen2.5-7b", "qkv_bias True"),
        ("qwen3-8b", "query_key_norm True"),
        ("gpt-neox-20b", "parallel_block True"),
        ("phi3-mini", "local LocalAttention.*"),
    ],
)
def test_models_with_other_layers_are_refused(name, text) -> None:
    with pytest.raises(ParplanError, match=f"{name}: {text} cannot be executed yet"):
        gpt_layers(model_preset(name), 8)
