"""Further `model_type`s of Hugging Face Transformers.

Families of 2024 to 2026, the language part of models that see, and those that are refused with what
they have that is not modelled. Defaults are those of the library's configuration classes (version
5.24).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from parplan.errors import ParplanError
from parplan.sim.models.hf_families import FAMILIES, Fields
from parplan.sim.models.hf_keys import Keys

_llama, _qwen2, _qwen3 = FAMILIES["llama"], FAMILIES["qwen2"], FAMILIES["qwen3"]
_qwen3_moe, _gemma3 = FAMILIES["qwen3_moe"], FAMILIES["gemma3_text"]

STATE_SPACE = "not modelled: state-space layers"
LINEAR = "not modelled: layers of linear attention"
SPARSE = "not modelled: sparse attention, in which an indexer chooses the keys"

NOT_MODELLED = {
    **dict.fromkeys(
        (
            *("mamba", "mamba2", "falcon_mamba", "jamba", "nemotron_h", "zamba", "zamba2", "bamba"),
            *("falcon_h1", "granitemoehybrid", "lfm2", "lfm2_moe", "recurrent_gemma", "rwkv"),
        ),
        STATE_SPACE,
    ),
    **dict.fromkeys(
        (
            *("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
            *("minimax", "kimi_linear", "bailing_moe_linear", "olmo_hybrid"),
        ),
        LINEAR,
    ),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "deepseek_v4"), SPARSE),
    **dict.fromkeys(("t5", "bart", "mbart", "whisper"), "not modelled: encoders"),
    **dict.fromkeys(("bert", "roberta", "modernbert", "vit"), "not modelled: encoders"),
}
"""What a family has that is not modelled, by `model_type`."""


def _with(k: Keys, **defaults: Any) -> Keys:
    """The same keys, with defaults for those that are missing or null."""
    given = {name: value for name, value in k.table.items() if value is not None}
    return dataclasses.replace(k, table={**defaults, **given})


def _text(family: Callable[[Keys], Fields], **defaults: Any) -> Callable[[Keys], Fields]:
    """The part of a model that reads text: `text_config`, or all where there is none."""

    def read(k: Keys) -> Fields:
        inner = k.inner("text_config") if k.table.get("text_config") is not None else k
        tied = {"tie_word_embeddings": k.table.get("tie_word_embeddings")}
        outer = {name: value for name, value in tied.items() if value is not None}
        return family(_with(inner, **(defaults | outer)))

    return read


def _gemma3_text(k: Keys) -> Fields:
    return _gemma3(
        _with(k, num_attention_heads=8, num_key_value_heads=4, head_dim=256, vocab_size=262_208)
    )


def _llama4(k: Keys) -> Fields:
    """Every `interleave_moe_layer_step`-th layer has experts, one of them shared."""
    step = k.size_or("interleave_moe_layer_step", 1)
    expert = k.size("intermediate_size")
    fields = _llama(k)
    dense = k.size_or("intermediate_size_mlp", 16384)
    moe = {
        "num_experts": k.size_or("num_local_experts", 16),
        "top_k": k.size_or("num_experts_per_tok", 1),
        "ffn_size": expert,
        "shared_experts": 1,
        "every": step,
    }
    return fields | {"ffn_size": dense, "moe": moe}


def _qwen2_moe(k: Keys) -> Fields:
    """A shared expert that is several times as wide counts as several."""
    width = k.size_or("moe_intermediate_size", 1408)
    shared = k.size_or("shared_expert_intermediate_size", 5632)
    if shared % width:
        raise ParplanError(
            f"{k.where}: shared_expert_intermediate_size: {shared} is not a multiple of the "
            f"{width} of one expert"
        )
    k.only("mlp_only_layers", [], [])
    moe = {
        "num_experts": k.size_or("num_experts", 60),
        "top_k": k.size_or("num_experts_per_tok", 4),
        "ffn_size": width,
        "shared_experts": shared // width,
        "every": k.size_or("decoder_sparse_step", 1),
    }
    return _qwen2(k) | {"moe": moe}


def _glm(k: Keys) -> Fields:
    return _llama(_with(k, num_key_value_heads=2, attention_bias=True))


def _glm4(k: Keys) -> Fields:
    """A normalisation before and after each part of a block."""
    return _llama(_with(k, num_key_value_heads=2)) | {"block_norms": 4}


def _glm4_moe(k: Keys) -> Fields:
    """Layers to predict tokens further ahead (`num_nextn_predict_layers`) are not counted."""
    moe = {
        "num_experts": k.size_or("n_routed_experts", 128),
        "top_k": k.size_or("num_experts_per_tok", 8),
        "ffn_size": k.size_or("moe_intermediate_size", 1408),
        "shared_experts": k.count_or("n_shared_experts", 1),
        "first_dense_layers": k.count_or("first_k_dense_replace", 1),
    }
    return _llama(k) | {"query_key_norm": k.flag("use_qk_norm", False), "moe": moe}


def _olmo2(k: Keys) -> Fields:
    """Queries and keys are normalised as a whole, counted here as by heads."""
    return _llama(k) | {"query_key_norm": True}


def _olmo3(k: Keys) -> Fields:
    """Every fourth layer attends to all tokens."""
    window = k.optional("sliding_window", 4096)
    local = {} if window is None else {"local": {"window": window, "global_every": 4}}
    return _olmo2(k) | local


def _granite(k: Keys) -> Fields:
    return _llama(k)


def _cohere(k: Keys) -> Fields:
    """Attention and MLP read the same LayerNorm, which has no bias."""
    fields = _llama(_with(k, tie_word_embeddings=True))
    return fields | {
        "norm": "layernorm",
        "norm_bias": False,
        "parallel_block": True,
        "block_norms": 1,
        "query_key_norm": k.flag("use_qk_norm", False),
    }


def _cohere2(k: Keys) -> Fields:
    every = k.size_or("sliding_window_pattern", 4)
    window = k.optional("sliding_window", 4096)
    local = {} if window is None else {"local": {"window": window, "global_every": every}}
    return _cohere(k) | local


def _starcoder2(k: Keys) -> Fields:
    fields = _llama(_with(k, num_key_value_heads=2, tie_word_embeddings=True))
    window = k.optional("sliding_window", None)
    local = {} if window is None else {"local": {"window": window, "global_every": 0}}
    bias = k.flag("use_bias", True)
    return fields | {"mlp": "plain", "norm": "layernorm", "bias": bias, "qkv_bias": bias} | local


def _minimax_m2(k: Keys) -> Fields:
    """Queries and keys are normalised as a whole, counted here as by heads."""
    moe = {
        "num_experts": k.size_or("num_local_experts", 256),
        "top_k": k.size_or("num_experts_per_tok", 8),
        "ffn_size": k.size("intermediate_size"),
    }
    return _llama(k) | {"query_key_norm": k.flag("use_qk_norm", True), "moe": moe}


def _ernie(k: Keys) -> Fields:
    fields = _llama(_with(k, tie_word_embeddings=True))
    return fields | {"bias": k.flag("use_bias", False), "qkv_bias": k.flag("use_bias", False)}


def _ernie_moe(k: Keys) -> Fields:
    moe = {
        "num_experts": k.size_or("moe_num_experts", 64),
        "top_k": k.size_or("moe_k", 6),
        "ffn_size": k.size_or("moe_intermediate_size", 1536),
        "shared_experts": k.count_or("moe_num_shared_experts", 2),
        "first_dense_layers": k.count_or("moe_layer_start_index", 1),
        "every": k.size_or("moe_layer_interval", 1),
    }
    return _ernie(k) | {"moe": moe}


def _hunyuan(k: Keys) -> Fields:
    return _llama(k) | {"query_key_norm": True}


def _hunyuan_moe(k: Keys) -> Fields:
    """Sizes may be lists with a number for each layer, which have to be equal."""
    equal = _equal(k, ("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert"))
    moe = {
        "num_experts": equal.size("num_experts"),
        "top_k": equal.size_or("moe_topk", 1),
        "ffn_size": equal.size_or("moe_intermediate_size", equal.size("intermediate_size")),
        "shared_experts": equal.count_or("num_shared_expert", 1),
    }
    return _hunyuan(equal) | {"moe": moe}


def _equal(k: Keys, names: tuple[str, ...]) -> Keys:
    table = dict(k.table)
    for name in names:
        value = table.get(name)
        if isinstance(value, list):
            if len({str(item) for item in value}) != 1:
                raise ParplanError(f"{k.where}: {name}: layers that differ are not modelled")
            table[name] = value[0]
    return dataclasses.replace(k, table=table)


def _nemotron(k: Keys) -> Fields:
    return _llama(k) | {"mlp": "plain", "norm": "layernorm"}


def _phi(k: Keys) -> Fields:
    """Attention and MLP read the same LayerNorm; everything has a bias."""
    return _llama(k) | {
        **{"mlp": "plain", "norm": "layernorm", "bias": True, "qkv_bias": True},
        **{"parallel_block": True, "block_norms": 1},
    }


def _internlm3(k: Keys) -> Fields:
    k.only("bias", False, False)
    return _llama(k) | {"qkv_bias": k.flag("qkv_bias", False)}


def _ministral3(k: Keys) -> Fields:
    """Mistral, whose window is off unless it is said."""
    return FAMILIES["mistral"](k if "sliding_window" in k.table else _with(k, sliding_window=None))


def _granite_moe(k: Keys) -> Fields:
    k.only("attention_bias", False, False)
    return FAMILIES["mixtral"](k)


MORE: dict[str, Callable[[Keys], Fields]] = {
    "gemma3": _text(_gemma3_text),
    "llama4": _text(_llama4),
    "llama4_text": _llama4,
    "mistral3": _text(FAMILIES["mistral"]),
    "qwen2_moe": _qwen2_moe,
    "qwen2_vl": _text(_qwen2),
    "qwen2_5_vl": _text(_qwen2),
    "qwen3_vl": _text(_qwen3),
    "qwen3_vl_text": _qwen3,
    "qwen3_vl_moe": _text(_qwen3_moe),
    "qwen3_vl_moe_text": _qwen3_moe,
    "glm": _glm,
    "glm4": _glm4,
    "glm4_moe": _glm4_moe,
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "granite": _granite,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "starcoder2": _starcoder2,
    "minimax_m2": _minimax_m2,
    "ernie4_5": _ernie,
    "ernie4_5_moe": _ernie_moe,
    "hunyuan_v1_dense": _hunyuan,
    "hunyuan_v1_moe": _hunyuan_moe,
    "nemotron": _nemotron,
    "phi": _phi,
    "smollm3": _llama,
    "helium": _llama,
    "internlm3": _internlm3,
    "seed_oss": _qwen2,
    "ministral3": _ministral3,
    "granitemoe": _granite_moe,
}
"""By `model_type`."""
