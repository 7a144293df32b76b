"""Parts of a model: kinds of layers, experts, latent and local attention."""

from dataclasses import dataclass
from typing import Literal

from parplan._strict import check_within
from parplan.errors import ParplanError

MOST_SIZE = 10**9
"""Beyond it nothing is computed: the time and the memory that it would take have no bound."""

LayerKind = Literal["dense", "moe", "dense local", "moe local"]
"""What follows a layer's attention, and whether that attention sees a window only."""


def has_experts(kind: str) -> bool:
    """Whether a layer of this kind has experts."""
    return kind in ("moe", "moe local")


def is_local(kind: LayerKind) -> bool:
    """Whether the attention of a layer of this kind sees a window only."""
    return kind in ("dense local", "moe local")


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
        check_within(
            self, dict.fromkeys(("num_experts", "top_k", "ffn_size", "every"), (1, MOST_SIZE))
        )
        check_within(self, dict.fromkeys(("shared_experts", "first_dense_layers"), (0, MOST_SIZE)))
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
        sizes = dict.fromkeys(("kv_rank", "nope_size", "rope_size", "value_size"), (1, MOST_SIZE))
        check_within(self, {**sizes, "query_rank": (0, MOST_SIZE)})


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAttention:
    """Layers whose tokens attend to the nearest ones before them alone (sliding windows).

    Beltagy et al. 2020 (Longformer, arXiv:2004.05150), section 3.1.
    """

    window: int
    """Tokens that one token attends to, itself among them."""
    global_every: int = 0
    """Each so-manieth layer attends to all tokens; 0: none does."""

    def __post_init__(self) -> None:
        check_within(self, {"window": (1, MOST_SIZE), "global_every": (0, MOST_SIZE)})

    def holds(self, layer: int) -> bool:
        """Whether layer number `layer`, counted from 0, is a local one."""
        return not self.global_every or (layer + 1) % self.global_every != 0
