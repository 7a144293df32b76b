"""Architectures of transformer language models and their parameter counts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parplan.hardware.errors import ParplanError, unknown_name
from parplan.hardware.strict import build, read_toml

PRESETS = Path(__file__).parent / "models.toml"


LayerKind = Literal["dense", "moe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Layers in which a router sends each token to a few of many gated or plain MLPs."""

    num_experts: int
    top_k: int
    """Experts that each token is sent to."""
    ffn_size: int
    """Of one expert."""
    shared_experts: int = 0
    """Experts of the same size that every token passes."""
    first_dense_layers: int = 0
    """Layers at the beginning that have an ordinary MLP."""
    every: int = 1
    """Of the layers after them, each so-manieth has experts."""

    def __post_init__(self) -> None:
        for name in ("num_experts", "top_k", "ffn_size", "every"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("shared_experts", "first_dense_layers"):
            if getattr(self, name) < 0:
                raise ParplanError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.top_k > self.num_experts:
            raise ParplanError(f"top_k: {self.top_k} of {self.num_experts} experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA; DeepSeek-AI 2024, arXiv:2405.04434, section 2.1)."""

    kv_rank: int
    """Features of the compressed keys and values."""
    query_rank: int = 0
    """Features of the compressed queries; 0: not compressed."""
    nope_size: int
    """Features of one head's query and key without position."""
    rope_size: int
    """Features with rotary position; the key's are shared by all heads."""
    value_size: int
    """Features of one head's value."""

    def __post_init__(self) -> None:
        for name in ("kv_rank", "nope_size", "rope_size", "value_size"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.query_rank < 0:
            raise ParplanError(f"query_rank: must not be negative, got {self.query_rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder-only transformer."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    """Fewer than `num_heads` for grouped-query attention."""
    ffn_size: int
    vocab_size: int
    mlp: Literal["plain", "gated"]
    """Plain: up, activation, down (GPT). Gated: up and gate, activation, down (Llama)."""
    norm: Literal["layernorm", "rmsnorm"]
    bias: bool
    tied_embeddings: bool
    learned_positions: int = 0
    """Rows of a learned position table; 0 for rotary positions."""
    head_dim: int | None = None
    """Features of one attention head, where it is not hidden_size / num_heads."""
    moe: MixtureOfExperts | None = None
    mla: LatentAttention | None = None
    source: str

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 1:
            raise ParplanError(f"vocab_size: must be at least 1, got {self.vocab_size}")
        if self.head_dim is not None and self.head_dim < 1:
            raise ParplanError(f"head_dim: must be at least 1, got {self.head_dim}")
        if self.head_dim is None and self.mla is None and self.hidden_size % self.num_heads:
            raise ParplanError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ParplanError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )

    @property
    def head_size(self) -> int:
        """Features of one attention head (with latent attention: of its query and key)."""
        if self.mla is not None:
            return self.mla.nope_size + self.mla.rope_size
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def query_size(self) -> int:
        """Features of the queries of one token."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Features of the keys (and of the values) of one token."""
        return self.num_kv_heads * self.head_size

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """What each layer has after its attention, first layer first."""
        return tuple(self._kind_of(layer) for layer in range(self.num_layers))

    def _kind_of(self, layer: int) -> LayerKind:
        if self.moe is None or layer < self.moe.first_dense_layers:
            return "dense"
        place = layer - self.moe.first_dense_layers + 1
        return "dense" if place % self.moe.every else "moe"

    @property
    def norm_parameters(self) -> int:
        """Parameters of one normalisation."""
        return self.hidden_size * (2 if self.norm == "layernorm" else 1)

    @property
    def attention_matrix_parameters(self) -> int:
        """Weights of one layer's query, key, value and output matrices."""
        h, heads = self.hidden_size, self.num_heads
        if self.mla is None:
            return h * (self.query_size + 2 * self.kv_size) + self.query_size * h
        x = self.mla
        rank = x.query_rank
        queries = h * rank + rank * self.query_size if rank else h * self.query_size
        keys_values = h * (x.kv_rank + x.rope_size)
        keys_values += x.kv_rank * heads * (x.nope_size + x.value_size)
        return queries + keys_values + heads * x.value_size * h

    @property
    def num_up_matrices(self) -> int:
        """Matrices of an MLP before its activation function."""
        return 2 if self.mlp == "gated" else 1

    def mlp_matrix_parameters(self, ffn_size: int) -> int:
        """Weights of one MLP of this width."""
        return (self.num_up_matrices + 1) * self.hidden_size * ffn_size

    @property
    def block_matrix_parameters(self) -> int:
        """Weights of one dense block's matrices: query, key, value, output, and the MLP."""
        return self.attention_matrix_parameters + self.mlp_matrix_parameters(self.ffn_size)

    @property
    def expert_parameters(self) -> int:
        """Weights of all routed experts of one layer with experts."""
        if self.moe is None:
            return 0
        return self.moe.num_experts * self.mlp_matrix_parameters(self.moe.ffn_size)

    @property
    def block_parameters(self) -> int:
        """All parameters of one dense transformer block."""
        biases = 0
        if self.bias:
            biases = self.query_size + 2 * self.kv_size + self.hidden_size
            biases += self.num_up_matrices * self.ffn_size + self.hidden_size
        return self.block_matrix_parameters + biases + self._block_norm_parameters

    @property
    def moe_block_parameters(self) -> int:
        """All parameters of one block with experts: routed and shared ones, and the router."""
        if self.moe is None:
            return 0
        shared = self.moe.shared_experts * self.mlp_matrix_parameters(self.moe.ffn_size)
        router = self.hidden_size * self.moe.num_experts
        own = self.attention_matrix_parameters + shared + router + self._block_norm_parameters
        return own + self.expert_parameters

    @property
    def _block_norm_parameters(self) -> int:
        latent = self.mla.kv_rank + self.mla.query_rank if self.mla is not None else 0
        return 2 * self.norm_parameters + latent

    def parameters_of(self, kind: LayerKind) -> int:
        """All parameters of one layer of this kind."""
        return self.moe_block_parameters if kind == "moe" else self.block_parameters

    def active_matrix_parameters(self, kind: LayerKind) -> int:
        """Weights of the matrices that one token meets in one layer of this kind."""
        if kind == "dense" or self.moe is None:
            return self.block_matrix_parameters
        experts = self.moe.top_k + self.moe.shared_experts
        met = experts * self.mlp_matrix_parameters(self.moe.ffn_size)
        return self.attention_matrix_parameters + met + self.hidden_size * self.moe.num_experts

    @property
    def embedding_parameters(self) -> int:
        """Token and position tables."""
        return (self.vocab_size + self.learned_positions) * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """Final normalisation and output projection; a tied projection is counted once, above."""
        projection = 0 if self.tied_embeddings else self.vocab_size * self.hidden_size
        return self.norm_parameters + projection

    @property
    def num_parameters(self) -> int:
        """All parameters of the model."""
        blocks = sum(self.parameters_of(kind) for kind in self.layer_kinds)
        return self.embedding_parameters + blocks + self.head_parameters


def model_presets(path: Path = PRESETS) -> dict[str, Model]:
    """The models of a TOML file by name; raises `ParplanError` for a malformed file."""
    tables = read_toml(path)
    models = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ParplanError(f"{path}: {name}: expected a table, got {table!r}")
        models[name] = build(Model, {"name": name, **table}, f"{path}: {name}")
    return models


def model_preset(name: str) -> Model:
    """The model `name`; raises `ParplanError` that suggests near names."""
    models = model_presets()
    if name not in models:
        raise unknown_name("model", name, models)
    return models[name]
