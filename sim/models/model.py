"""Architectures of transformer language models and their parameter counts."""

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parplan._checked import checked
from parplan._files import is_folder
from parplan._strict import build, check_within, read_toml
from parplan.errors import ParplanError, unknown_name
from parplan.sim.models.parts import (
    MOST_SIZE,
    LatentAttention,
    LayerKind,
    LocalAttention,
    MixtureOfExperts,
    has_experts,
)

__all__ = [
    "LatentAttention",
    "LayerKind",
    "LocalAttention",
    "MixtureOfExperts",
    "Model",
    "model_preset",
    "model_presets",
]

PRESETS = Path(__file__).parent
"""The folder of the files models*.toml."""


MOST_LAYERS = 100_000
"""As `MOST_SIZE`, of layers."""


@functools.lru_cache(maxsize=64)
def _layer_kinds(
    num_layers: int, moe: MixtureOfExperts | None, local: LocalAttention | None
) -> tuple[LayerKind, ...]:
    """The part of each layer after its attention, first layer first."""

    def has_experts_at(layer: int) -> bool:
        if moe is None or layer < moe.first_dense_layers:
            return False
        return (layer - moe.first_dense_layers + 1) % moe.every == 0

    def kind_of(layer: int) -> LayerKind:
        window = local is not None and local.holds(layer)
        if has_experts_at(layer):
            return "moe local" if window else "moe"
        return "dense local" if window else "dense"

    return tuple(map(kind_of, range(num_layers)))


@checked()
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
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias where `bias` gives the others none (Qwen2)."""
    norm_bias: bool = True
    """Whether a layernorm has a bias; an rmsnorm never has."""
    query_key_norm: bool = False
    """Whether queries and keys of every head are normalised, with one weight for each feature."""
    block_norms: int = 2
    """Normalisations of hidden_size features in a block: 1 before attention and MLP at once, 2
    before each, 4 before and after each."""
    parallel_block: bool = False
    """Whether attention and MLP read the same input and are added up together (Wang and Komatsuzaki
    2021, GPT-J; PaLM, arXiv:2204.02311, section 2)."""
    alibi: bool = False
    """Whether positions are biases of the scores (Press et al. 2021, arXiv:2108.12409), not
    rotations."""
    moe: MixtureOfExperts | None = None
    mla: LatentAttention | None = None
    local: LocalAttention | None = None
    rope_theta: float | None = field(default=None, compare=False)
    """Base of the angles of rotary positions; None where it is not said. Like `norm_epsilon` it is
    for exports, without effect on the time and the memory of a step."""
    norm_epsilon: float | None = field(default=None, compare=False)
    """What normalisations add to the variance."""
    source: str

    def __post_init__(self) -> None:
        names = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size", "vocab_size")
        for name in names:
            most, value = MOST_LAYERS if name == "num_layers" else MOST_SIZE, getattr(self, name)
            if not 1 <= value <= most:
                limit = "at least 1" if value < 1 else f"at most {most}"
                raise ParplanError(f"{name}: must be {limit}, got {value}")
        for name in ("rope_theta", "norm_epsilon"):
            number = getattr(self, name)
            if number is not None and not 0 < number < math.inf:
                raise ParplanError(f"{name}: must be positive, got {number}")
        check_within(self, {"head_dim": (1, MOST_SIZE), "learned_positions": (0, MOST_SIZE)})
        if self.head_dim is None and self.mla is None and self.hidden_size % self.num_heads:
            raise ParplanError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ParplanError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.block_norms not in ((1, 2) if self.parallel_block else (2, 4)):
            raise ParplanError(
                f"block_norms: {self.block_norms}; allowed: 1 or 2 with parallel_block, else 2 or 4"
            )
        if self.parallel_block and self.moe is not None:
            raise ParplanError("parallel_block: not with experts")

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
        """The part of each layer after its attention, first layer first."""
        return _layer_kinds(self.num_layers, self.moe, self.local)

    @property
    def norm_parameters(self) -> int:
        """Parameters of one normalisation."""
        biased = self.norm == "layernorm" and self.norm_bias
        return self.hidden_size * (2 if biased else 1)

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
        return self.moe.num_experts * self._mlp_parameters(self.moe.ffn_size)

    @property
    def block_parameters(self) -> int:
        """All parameters of one dense transformer block."""
        return self._attention_parameters + self._mlp_parameters(self.ffn_size)

    @property
    def moe_block_parameters(self) -> int:
        """All parameters of one block with experts: routed and shared ones, and the router."""
        if self.moe is None:
            return 0
        shared = self.moe.shared_experts * self.moe.ffn_size
        router = (self.hidden_size + self.bias) * self.moe.num_experts
        own = self._attention_parameters + router + self.expert_parameters
        return own + (self._mlp_parameters(shared) if shared else 0)

    def _mlp_parameters(self, ffn_size: int) -> int:
        biases = self.num_up_matrices * ffn_size + self.hidden_size if self.bias else 0
        return self.mlp_matrix_parameters(ffn_size) + biases

    @property
    def _attention_parameters(self) -> int:
        """Parameters of a block without its MLP: attention and all normalisations."""
        biases = self.query_size + 2 * self.kv_size if self.bias or self.qkv_bias else 0
        biases += self.hidden_size if self.bias else 0
        norms = self.block_norms * self.norm_parameters
        norms += 2 * self.head_size if self.query_key_norm else 0
        norms += self.mla.kv_rank + self.mla.query_rank if self.mla is not None else 0
        return self.attention_matrix_parameters + biases + norms

    def parameters_of(self, kind: LayerKind) -> int:
        """All parameters of one layer of this kind."""
        return self.moe_block_parameters if has_experts(kind) else self.block_parameters

    def active_matrix_parameters(self, kind: LayerKind) -> int:
        """Weights of the matrices that one token meets in one layer of this kind."""
        if not has_experts(kind) or self.moe is None:
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
    """The models by name of a TOML file, or of the files models*.toml of a folder.

    Raises `ParplanError` for a malformed file and for a name that is given twice.
    """
    return {name: _model(name, *found) for name, found in _tables(path).items()}


def model_preset(name: str) -> Model:
    """The model `name`; raises `ParplanError` that suggests near names."""
    tables = _shipped()
    if name not in tables:
        raise unknown_name("model", name, tables)
    return _model(name, *tables[name])


@functools.cache
def _shipped() -> dict[str, tuple[dict[str, Any], Path]]:
    return _tables(PRESETS)


def _tables(path: Path) -> dict[str, tuple[dict[str, Any], Path]]:
    """The table and the file of each model, by its name."""
    tables: dict[str, tuple[dict[str, Any], Path]] = {}
    for file in sorted(path.glob("models*.toml")) if is_folder(path) else [path]:
        for name, table in read_toml(file).items():
            if not isinstance(table, dict):
                raise ParplanError(f"{file}: {name}: expected a table, got {table!r}")
            if name in tables:
                raise ParplanError(f"{file}: {name}: another file has a model of this name")
            tables[name] = table, file
    return tables


def _model(name: str, table: dict[str, Any], file: Path) -> Model:
    return build(Model, {"name": name, **table}, f"{file}: {name}")
