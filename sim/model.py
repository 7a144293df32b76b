"""Architectures of transformer language models and their parameter counts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parplan.hardware.errors import ParplanError, unknown_name
from parplan.hardware.strict import build, read_toml

PRESETS = Path(__file__).parent / "models.toml"


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
    source: str

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 1:
            raise ParplanError(f"vocab_size: must be at least 1, got {self.vocab_size}")
        if self.hidden_size % self.num_heads:
            raise ParplanError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ParplanError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def kv_size(self) -> int:
        """Features of the keys (and of the values) of one token."""
        return self.num_kv_heads * self.head_size

    @property
    def norm_parameters(self) -> int:
        """Parameters of one normalisation."""
        return self.hidden_size * (2 if self.norm == "layernorm" else 1)

    @property
    def block_matrix_parameters(self) -> int:
        """Weights of one block's matrices: query, key, value, output, and the MLP."""
        h, f = self.hidden_size, self.ffn_size
        attention = h * (h + 2 * self.kv_size) + h * h
        return attention + (3 if self.mlp == "gated" else 2) * h * f

    @property
    def block_parameters(self) -> int:
        """All parameters of one transformer block."""
        h, f = self.hidden_size, self.ffn_size
        ups = 2 if self.mlp == "gated" else 1
        biases = (h + 2 * self.kv_size) + h + ups * f + h if self.bias else 0
        return self.block_matrix_parameters + biases + 2 * self.norm_parameters

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
        blocks = self.num_layers * self.block_parameters
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
