"""Language models as chains of layers: embedding, blocks, head, as `Model` counts them.

Every layer takes one tensor and returns one, so that a pipeline can be cut anywhere between them.
"""

import torch
from torch import nn
from torch.nn import functional

from parplan.backend.executable import why_not_built
from parplan.backend.models.gpt_attention import CausalAttention
from parplan.backend.models.sequence_part import SequencePart
from parplan.errors import ParplanError
from parplan.sim.models.model import Model
from parplan.sim.models.parts import LayerKind, is_local
from parplan.sim.workload import AttentionKind


def gpt_layers(model: Model, seq_len: int, attention: AttentionKind = "flash") -> list[nn.Module]:
    """The layers of `model`: embedding, num_layers blocks, head.

    The embedding takes tokens (batch, seq_len), the head returns logits (batch, seq_len, vocab).
    Raises `ParplanError` for what `why_not_built` names.
    """
    if reason := why_not_built(model):
        raise ParplanError(f"{model.name}: {reason}")
    blocks = [Block(model, seq_len, attention, kind) for kind in model.layer_kinds]
    embedding, head = Embedding(model), Head(model)
    if model.tied_embeddings:
        head.projection.weight = embedding.tokens.weight
    return [embedding, *blocks, head]


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
    if model.norm == "layernorm":
        return nn.LayerNorm(model.hidden_size, bias=model.norm_bias)
    return nn.RMSNorm(model.hidden_size)


class Embedding(nn.Module):
    """Tokens, and their positions where these are learned."""

    part: SequencePart | None = None
    """Of a sequence that is spread over ranks."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.description = model
        self.tokens = nn.Embedding(model.vocab_size, model.hidden_size)
        self.positions = None
        if model.learned_positions:
            self.positions = nn.Embedding(model.learned_positions, model.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len) -> (batch, seq_len, hidden)."""
        values: torch.Tensor = self.tokens(tokens)
        if self.positions is not None:
            start = self.part.start(tokens.shape[1]) if self.part is not None else 0
            places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
            values = values + self.positions(places)
        return values


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
    """Attention and MLP beside a residual path.

    Each behind a normalisation (GPT, Llama), between two (Gemma 2), or both at once (GPT-J, PaLM).
    """

    split_over = 1
    """Tensor-parallel ranks that each have a part of it."""

    def __init__(
        self, model: Model, seq_len: int, attention: AttentionKind, kind: LayerKind = "dense"
    ) -> None:
        super().__init__()
        window = model.local.window if model.local is not None and is_local(kind) else None
        self.parallel = model.parallel_block
        self.attention_norm = _norm(model)
        self.attention = CausalAttention(model, seq_len, attention, window)
        self.mlp_norm = _norm(model) if model.block_norms > 1 else None
        self.mlp = Mlp(model)
        self.attention_post_norm = _norm(model) if model.block_norms == 4 else None
        self.mlp_post_norm = _norm(model) if model.block_norms == 4 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> the same."""
        normal = self.attention_norm(x)
        attended = self.attention(normal)
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        if self.parallel:
            read = normal if self.mlp_norm is None else self.mlp_norm(x)
            both: torch.Tensor = x + attended + self.mlp(read)
            return both
        mixed = x + attended
        assert self.mlp_norm is not None
        added = self.mlp(self.mlp_norm(mixed))
        if self.mlp_post_norm is not None:
            added = self.mlp_post_norm(added)
        values: torch.Tensor = mixed + added
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
