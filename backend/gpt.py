"""Language models as chains of layers: embedding, blocks, head, as `parplan.sim.model` counts them.

Every layer takes one tensor and returns one, so that a pipeline can be cut anywhere between them.
"""

import torch
from torch import nn
from torch.nn import functional

from parplan.backend.executable import why_not_built
from parplan.hardware.errors import ParplanError
from parplan.sim.layers.attention import FLASH
from parplan.sim.model import Model
from parplan.sim.workload import Attention

ROTARY_BASE = 10_000.0
"""Su et al. 2021 (arXiv:2104.09864), section 3.2.2."""


def gpt_layers(model: Model, seq_len: int, attention: Attention = "flash") -> list[nn.Module]:
    """The layers of `model`: embedding, num_layers blocks, head.

    The embedding takes tokens (batch, seq_len), the head returns logits (batch, seq_len, vocab).
    Raises `ParplanError` for what `why_not_built` names.
    """
    if reason := why_not_built(model):
        raise ParplanError(f"{model.name}: {reason}")
    blocks = [Block(model, seq_len, attention) for _ in range(model.num_layers)]
    return [Embedding(model), *blocks, Head(model)]


def language_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits (batch, seq_len, vocab) and the next tokens (batch, seq_len)."""
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def initialise(layers: list[nn.Module], seed: int) -> None:
    """Weights of every matrix and table from N(0, 0.02), the same on every process."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def _norm(model: Model) -> nn.Module:
    kind = nn.LayerNorm if model.norm == "layernorm" else nn.RMSNorm
    return kind(model.hidden_size)


class Embedding(nn.Module):
    """Tokens, and their positions where these are learned."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.tokens = nn.Embedding(model.vocab_size, model.hidden_size)
        self.positions = None
        if model.learned_positions:
            self.positions = nn.Embedding(model.learned_positions, model.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len) -> (batch, seq_len, hidden)."""
        values: torch.Tensor = self.tokens(tokens)
        if self.positions is not None:
            places = torch.arange(tokens.shape[1], device=tokens.device)
            values = values + self.positions(places)
        return values


class CausalAttention(nn.Module):
    """Causal attention with `num_kv_heads` heads of keys and values."""

    def __init__(self, model: Model, seq_len: int, attention: Attention) -> None:
        super().__init__()
        self.heads, self.kv_heads = model.num_heads, model.num_kv_heads
        self.sizes = (model.hidden_size, model.kv_size, model.kv_size)
        self.flash = attention in FLASH
        self.qkv = nn.Linear(model.hidden_size, sum(self.sizes), bias=model.bias)
        self.out = nn.Linear(model.hidden_size, model.hidden_size, bias=model.bias)
        self.rotary = not model.learned_positions
        if self.rotary:
            angles = _angles(seq_len, model.head_size)
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> the same."""
        projected = self.qkv(x)
        batch, seq = projected.shape[:2]  # x may be one rank's part of the sequence
        query, key, value = projected.split(self.sizes, dim=-1)
        query = query.view(batch, seq, self.heads, -1).transpose(1, 2)
        key = key.view(batch, seq, self.kv_heads, -1).transpose(1, 2)
        value = value.view(batch, seq, self.kv_heads, -1).transpose(1, 2)
        if self.rotary:
            query, key = self._rotate(query), self._rotate(key)
        grouped = self.kv_heads != self.heads
        if self.flash:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=grouped
            )
        else:
            if grouped:
                key, value = (
                    t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (key, value)
                )
            mixed = _unfused(query, key, value)
        values: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, seq, -1))
        return values

    def keep_part(self, ranks: int) -> None:
        """Count on one of `ranks` equal parts of the heads."""
        self.heads, self.kv_heads = self.heads // ranks, self.kv_heads // ranks
        query, key, value = self.sizes
        self.sizes = query // ranks, key // ranks, value // ranks

    def _rotate(self, values: torch.Tensor) -> torch.Tensor:
        seq = values.shape[2]
        cos, sin = self.get_buffer("cos")[:seq], self.get_buffer("sin")[:seq]
        first, second = values.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return turned.to(values.dtype)


def _angles(seq_len: int, head_size: int) -> torch.Tensor:
    rates = ROTARY_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    return torch.outer(torch.arange(seq_len, dtype=torch.float32), rates)


def _unfused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention whose scores (batch, heads, seq_len, seq_len) are kept."""
    seq = query.shape[2]
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    future = torch.ones(seq, seq, dtype=torch.bool, device=query.device).triu(1)
    mixed: torch.Tensor = scores.masked_fill(future, float("-inf")).softmax(-1) @ value
    return mixed


class Mlp(nn.Module):
    """Plain: up, GELU, down. Gated: SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.gated = model.mlp == "gated"
        ups = 2 if self.gated else 1
        self.up = nn.Linear(model.hidden_size, ups * model.ffn_size, bias=model.bias)
        self.down = nn.Linear(model.ffn_size, model.hidden_size, bias=model.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> the same."""
        values = self.up(x)
        if self.gated:
            gate, values = values.chunk(2, dim=-1)
            values = functional.silu(gate) * values
        else:
            values = functional.gelu(values, approximate="tanh")
        down: torch.Tensor = self.down(values)
        return down


class Block(nn.Module):
    """Attention and MLP, each behind a normalisation and beside a residual path."""

    def __init__(self, model: Model, seq_len: int, attention: Attention) -> None:
        super().__init__()
        self.attention_norm = _norm(model)
        self.attention = CausalAttention(model, seq_len, attention)
        self.mlp_norm = _norm(model)
        self.mlp = Mlp(model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> the same."""
        mixed = x + self.attention(self.attention_norm(x))
        values: torch.Tensor = mixed + self.mlp(self.mlp_norm(mixed))
        return values


class Head(nn.Module):
    """Final normalisation and projection to the vocabulary."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.norm = _norm(model)
        self.projection = nn.Linear(model.hidden_size, model.vocab_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> (batch, seq_len, vocab)."""
        logits: torch.Tensor = self.projection(self.norm(x))
        return logits
