"""The models that are run are the models that are planned."""

import dataclasses

import pytest
import torch

from parplan.backend.executable import why_not_built
from parplan.backend.execution.trial_run import LEARNING_RATE, train_alone
from parplan.backend.models.chain import Chain
from parplan.backend.models.gpt import gpt_layers, initialise, language_loss
from parplan.backend.models.gpt_attention import alibi_slopes
from parplan.errors import ParplanError
from parplan.sim.models.model import LocalAttention, model_preset, model_presets
from parplan.sim.models.scaled_down import scaled_down

PRESETS = [m for m in model_presets().values() if not why_not_built(m)]
TINY = model_preset("gpt-tiny")


@pytest.mark.parametrize("model", PRESETS, ids=lambda model: model.name)
def test_the_layers_have_the_parameters_that_are_counted(model) -> None:
    with torch.device("meta"):
        layers = gpt_layers(dataclasses.replace(model, num_layers=2), seq_len=64)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    block = model.block_parameters
    tied = model.vocab_size * model.hidden_size if model.tied_embeddings else 0
    assert counts == [model.embedding_parameters, block, block, model.head_parameters + tied]


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
        {"alibi": True, "learned_positions": 0, "local": LocalAttention(window=3)},
        {"query_key_norm": True, "head_dim": 6, "block_norms": 4, "learned_positions": 0},
        {"parallel_block": True, "block_norms": 1},
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


def test_tied_embeddings_are_one_parameter() -> None:
    layers = gpt_layers(dataclasses.replace(TINY, tied_embeddings=True), 8)
    assert layers[0].tokens.weight is layers[-1].projection.weight


def test_tied_embeddings_are_stepped_once() -> None:
    def made():
        layers = gpt_layers(dataclasses.replace(TINY, num_layers=1, tied_embeddings=True), 8)
        initialise(layers, 0)
        return layers

    tokens = torch.arange(16).reshape(2, 8)
    chain = Chain(layers=tuple(made()), num_first=1, num_last=1, loss_fn=language_loss)
    found = train_alone(chain, (tokens, tokens), torch.device("cpu"), 3)
    model = torch.nn.Sequential(*made())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    expected = []
    for _ in range(3):
        loss = language_loss(model(tokens), tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert found == expected


def test_only_experts_and_latent_attention_are_refused() -> None:
    refused = {m.name: why_not_built(m) for m in model_presets().values() if why_not_built(m)}
    assert refused.keys() == {
        m.name for m in model_presets().values() if m.moe is not None or m.mla is not None
    }
    with pytest.raises(ParplanError, match="mixtral-8x7b: experts cannot be executed yet"):
        gpt_layers(model_preset("mixtral-8x7b"), 8)


SIZES = ("name", "source", "num_layers", "hidden_size", "ffn_size", "vocab_size", "num_heads")


def kinds(models):
    """One of the models that differ in sizes alone."""

    def kind(model):
        fields = {n: v for n, v in dataclasses.asdict(model).items() if n not in SIZES}
        grouped = fields.pop("num_kv_heads") < model.num_heads
        return grouped, *(bool(v) if isinstance(v, int) else str(v) for v in fields.values())

    return {kind(model): model for model in models}.values()


@pytest.mark.parametrize("model", kinds(PRESETS), ids=lambda model: model.name)
def test_every_preset_trains_when_scaled_down(model) -> None:
    small = scaled_down(model, max(16, model.hidden_size // 64))
    layers = gpt_layers(small, 8)
    initialise(layers, 0)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert sum(counts) < 3e6
    tied = small.vocab_size * small.hidden_size if small.tied_embeddings else 0
    assert sum(counts) - tied == small.num_parameters
    values = torch.arange(8).reshape(1, 8)
    targets = values.clone()
    for layer in layers:
        values = layer(values)
    loss = language_loss(values, targets)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for layer in layers for p in layer.parameters())


def test_windows_and_alibi_are_what_the_papers_say() -> None:
    # Press et al. 2021, section 3: 8 heads have 1/2, 1/4, ..., 1/256.
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert len(set(alibi_slopes(12))) == 12
    model = dataclasses.replace(TINY, num_layers=1, local=LocalAttention(window=2))
    layers = gpt_layers(model, 8)
    initialise(layers, 0)

    def last(first_token: int) -> torch.Tensor:
        values = torch.tensor([[first_token, 2, 3, 4]])
        for layer in layers:
            values = layer(values)
        return values[:, -1]

    torch.testing.assert_close(last(5), last(6), rtol=0, atol=0)
