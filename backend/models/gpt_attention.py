"""Causal attention of language models: grouped heads, rotary or ALiBi positions, windows."""

import math

import torch
from torch import nn
from torch.nn import functional

from parplan.backend.models.sequence_part import SequencePart
from parplan.sim.layers.attention import FLASH
from parplan.sim.models.model import Model
from parplan.sim.workload import AttentionKind

ROTARY_BASE = 10_000.0
"""Su et al. 2021 (arXiv:2104.09864), section 3.2.2."""


class CausalAttention(nn.Module):
    """Causal attention with `num_kv_heads` heads of keys and values.

    window: the latest tokens that each token attends to, itself included; None: all before it.
    """

    part: SequencePart | None = None
    """Of a sequence that is spread over ranks."""

    def __init__(
        self, model: Model, seq_len: int, attention: AttentionKind, window: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = model.num_heads, model.num_kv_heads
        self.sizes = (model.query_size, model.kv_size, model.kv_size)
        self.flash = attention in FLASH
        self.window = window
        self.qkv = nn.Linear(model.hidden_size, sum(self.sizes), bias=model.bias or model.qkv_bias)
        self.out = nn.Linear(model.query_size, model.hidden_size, bias=model.bias)
        self.query_norm = self.key_norm = None
        if model.query_key_norm:
            self.query_norm = nn.RMSNorm(model.head_size)
            self.key_norm = nn.RMSNorm(model.head_size)
        self.slopes = alibi_slopes(model.num_heads) if model.alibi else None
        self.rotary = not model.learned_positions and not model.alibi
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
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary:
            # Of the joint product nothing is kept for the backward but these copies of its parts.
            query, key, value = self._rotate(query), self._rotate(key), value.contiguous()
        if self.part is not None:
            key, value = self.part.gathered(key, value)
        grouped = self.kv_heads != self.heads
        bias = self._bias(query)
        if self.flash:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, is_causal=bias is None, enable_gqa=grouped
            )
        else:
            if grouped:
                key, value = (
                    t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (key, value)
                )
            mixed = _unfused(query, key, value, bias)
        values: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, seq, -1))
        return values

    def keep_part(self, ranks: int, rank: int) -> None:
        """Count on one of `ranks` equal parts of the heads."""
        self.heads, self.kv_heads = self.heads // ranks, self.kv_heads // ranks
        query, key, value = self.sizes
        self.sizes = query // ranks, key // ranks, value // ranks
        if self.slopes is not None:
            self.slopes = self.slopes[rank * self.heads : (rank + 1) * self.heads]

    def _bias(self, query: torch.Tensor) -> torch.Tensor | None:
        """The bias added to the scores (heads or 1, seq_len, keys).

        None for plain causal attention of as many keys.
        """
        seq = query.shape[2]
        whole = seq * (self.part.count if self.part is not None else 1)
        plain = self.slopes is None and (self.window is None or self.window >= whole)
        if plain and whole == seq:
            return None
        keys = torch.arange(whole, device=query.device)
        start = self._start(seq)
        back = keys[start : start + seq, None] - keys  # how far each key lies before each query
        seen = back >= 0
        if self.window is not None:
            seen &= back < self.window
        slopes = torch.tensor(self.slopes or (0.0,), device=query.device, dtype=query.dtype)
        bias = slopes[:, None, None] * -back.to(query.dtype)
        return bias.masked_fill(~seen, float("-inf"))

    def _start(self, seq: int) -> int:
        return self.part.start(seq) if self.part is not None else 0

    def _rotate(self, values: torch.Tensor) -> torch.Tensor:
        seq = values.shape[2]
        own = slice(self._start(seq), self._start(seq) + seq)
        cos, sin = (self.get_buffer(name)[own].to(values.dtype) for name in ("cos", "sin"))
        first, second = values.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """The slope of every head.

    A geometric sequence from 2^(-8/n) on for n heads, a power of two; for other numbers those of
    the power below, then every second one of the power above. Press et al. 2021 (arXiv:2108.12409),
    section 3 and the authors' code.
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)]
    return tuple([*slopes, *between][:heads])


def _angles(seq_len: int, head_size: int) -> torch.Tensor:
    rates = ROTARY_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    return torch.outer(torch.arange(seq_len, dtype=torch.float32), rates)


def _unfused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Attention whose scores (batch, heads, seq_len, seq_len) are kept."""
    seq = query.shape[2]
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    else:
        future = torch.ones(seq, seq, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    mixed: torch.Tensor = scores.softmax(-1) @ value
    return mixed
