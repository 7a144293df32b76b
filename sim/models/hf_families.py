"""Fields of `Model` for each `model_type` of Hugging Face Transformers.

Defaults are those of the library's configuration classes (version 4.5x), and of the code that
reads them; sizes of layers and of the vocabulary have none here.
"""

from collections.abc import Callable
from typing import Any

from parplan.errors import ParplanError
from parplan.sim.models.hf_keys import Keys

Fields = dict[str, Any]


def _sizes(k: Keys) -> Fields:
    """The names that most families share."""
    return {
        "num_layers": k.size("num_hidden_layers"),
        "hidden_size": k.size("hidden_size"),
        "num_heads": k.size("num_attention_heads"),
        "vocab_size": k.size("vocab_size"),
    }


def _gated(k: Keys, *, kv_heads: int | None = None, tied: bool = False) -> Fields:
    """A block as Llama's.

    `attention_bias` without `mlp_bias` counts the bias of queries, keys and values, not the
    output's, which is a thousandth of a thousandth of the block.
    """
    sizes = _sizes(k)
    in_attention, in_mlp = k.flag("attention_bias", False), k.flag("mlp_bias", False)
    return sizes | {
        "num_kv_heads": k.size_or("num_key_value_heads", kv_heads or sizes["num_heads"]),
        "ffn_size": k.size("intermediate_size"),
        "mlp": "gated",
        "norm": "rmsnorm",
        "bias": in_attention and in_mlp,
        "qkv_bias": in_attention,
        "tied_embeddings": k.flag("tie_word_embeddings", tied),
        "head_dim": k.optional("head_dim", None),
    }


def _window(window: int | None, global_every: int = 0) -> Fields:
    if window is None:
        return {}
    return {"local": {"window": window, "global_every": global_every}}


def _llama(k: Keys) -> Fields:
    return _gated(k)


def _mistral(k: Keys) -> Fields:
    """Without the key the library takes a window of 4,096 (version 0.1); null means none."""
    return _gated(k, kv_heads=8) | _window(k.optional("sliding_window", 4096))


def _mixtral(k: Keys) -> Fields:
    fields = _gated(k, kv_heads=8)
    moe = {
        "num_experts": k.size_or("num_local_experts", 8),
        "top_k": k.size_or("num_experts_per_tok", 2),
        "ffn_size": fields["ffn_size"],
    }
    return fields | {"moe": moe} | _window(k.optional("sliding_window", None))


def _qwen2(k: Keys) -> Fields:
    """Biases on queries, keys and values always; `sliding_window` only with its own switch."""
    k.only("use_sliding_window", False, False)
    return _gated(k, kv_heads=32) | {"qkv_bias": True}


def _qwen3(k: Keys) -> Fields:
    k.only("use_sliding_window", False, False)
    head = k.size_or("head_dim", 128)
    return _gated(k, kv_heads=32) | {"query_key_norm": True, "head_dim": head}


def _qwen3_moe(k: Keys) -> Fields:
    """Layer i, counted from 0, has experts where (i + 1) % decoder_sparse_step is 0."""
    k.only("use_sliding_window", False, False)
    k.only("mlp_only_layers", [], [])
    moe = {
        "num_experts": k.size_or("num_experts", 128),
        "top_k": k.size_or("num_experts_per_tok", 8),
        "ffn_size": k.size_or("moe_intermediate_size", 768),
        "every": k.size_or("decoder_sparse_step", 1),
    }
    return _gated(k, kv_heads=4) | {"query_key_norm": True, "moe": moe}


def _gemma(k: Keys) -> Fields:
    head = k.size_or("head_dim", 256)
    return _gated(k, kv_heads=16, tied=True) | {"head_dim": head}


def _gemma2(k: Keys) -> Fields:
    """Every second layer attends to all tokens."""
    head = k.size_or("head_dim", 256)
    fields = _gated(k, kv_heads=4, tied=True) | {"head_dim": head, "block_norms": 4}
    return fields | _window(k.optional("sliding_window", 4096), 2)


def _gemma3(k: Keys) -> Fields:
    every = k.size_or("sliding_window_pattern", 6)
    fields = _gemma2(k) | {"query_key_norm": True}
    return fields | _window(k.optional("sliding_window", 4096), every)


def _phi3(k: Keys) -> Fields:
    return _gated(k) | _window(k.optional("sliding_window", None))


def _layernorm(
    sizes: Fields, *, ffn: int, bias: bool, tied: bool, kv_heads: int | None = None
) -> Fields:
    """A block as GPT's."""
    return sizes | {
        "num_kv_heads": kv_heads or sizes["num_heads"],
        "ffn_size": ffn,
        "mlp": "plain",
        "norm": "layernorm",
        "bias": bias,
        "tied_embeddings": tied,
    }


def _gpt2(k: Keys) -> Fields:
    """`n_inner` null: 4 n_embd."""
    hidden = k.size("n_embd", "hidden_size")
    sizes = {
        "num_layers": k.size("n_layer", "num_hidden_layers"),
        "hidden_size": hidden,
        "num_heads": k.size("n_head", "num_attention_heads"),
        "vocab_size": k.size("vocab_size"),
        "learned_positions": k.size_or("n_positions", 1024),
    }
    ffn, tied = k.size_or("n_inner", 4 * hidden), k.flag("tie_word_embeddings", True)
    return _layernorm(sizes, ffn=ffn, bias=True, tied=tied)


def _gpt_neox(k: Keys) -> Fields:
    k.only("attention_bias", True, True)
    tied = k.flag("tie_word_embeddings", False)
    fields = _layernorm(_sizes(k), ffn=k.size("intermediate_size"), bias=True, tied=tied)
    return fields | {"parallel_block": k.flag("use_parallel_residual", True)}


def _bloom(k: Keys) -> Fields:
    """The MLP is always 4 hidden_size wide; the normalisation after the embedding is left out."""
    hidden = k.size("hidden_size", "n_embed")
    sizes = {
        "num_layers": k.size("n_layer", "num_hidden_layers"),
        "hidden_size": hidden,
        "num_heads": k.size("n_head", "num_attention_heads"),
        "vocab_size": k.size("vocab_size"),
    }
    tied = k.flag("tie_word_embeddings", True)
    return _layernorm(sizes, ffn=4 * hidden, bias=True, tied=tied) | {"alibi": True}


def _opt(k: Keys) -> Fields:
    """The table of positions has two rows more than there are positions."""
    sizes = _sizes(k)
    k.only("word_embed_proj_dim", sizes["hidden_size"], sizes["hidden_size"])
    k.only("enable_bias", True, True)
    k.only("do_layer_norm_before", True, True)
    tied = k.flag("tie_word_embeddings", True)
    positions = k.size_or("max_position_embeddings", 2048) + 2
    fields = _layernorm(sizes, ffn=k.size("ffn_dim"), bias=True, tied=tied)
    return fields | {"learned_positions": positions}


def _mpt(k: Keys) -> Fields:
    """ALiBi unless `attn_config` says otherwise; then positions are learned. `no_bias`: none."""
    attention = k.inner("attn_config")
    hidden = k.size("d_model")
    sizes = {
        "num_layers": k.size("n_layers"),
        "hidden_size": hidden,
        "num_heads": k.size("n_heads"),
        "vocab_size": k.size("vocab_size"),
    }
    bias = not k.flag("no_bias", True)
    ffn = k.size_or("expansion_ratio", 4) * hidden
    tied = k.flag("tie_word_embeddings", True)
    fields = _layernorm(sizes, ffn=ffn, bias=bias, tied=tied) | {"norm_bias": bias}
    if attention.flag("alibi", True):
        return fields | {"alibi": True}
    return fields | {"learned_positions": k.size_or("max_seq_len", 2048)}


def _falcon(k: Keys) -> Fields:
    """Keys and values: `num_kv_heads` in the new architecture, else one head or all."""
    hidden = k.size("hidden_size")
    heads = k.size("num_attention_heads", "n_head")
    sizes = {
        "num_layers": k.size("num_hidden_layers", "n_layer"),
        "hidden_size": hidden,
        "num_heads": heads,
        "vocab_size": k.size("vocab_size"),
    }
    new = k.flag("new_decoder_architecture", False)
    parallel = new or k.flag("parallel_attn", True)
    if new:
        kv_heads = k.size_or("num_kv_heads", heads)
    else:
        kv_heads = 1 if k.flag("multi_query", True) else heads
    norms = k.size_or("num_ln_in_parallel_attn", 2) if new else 1
    ffn, bias = k.size_or("ffn_hidden_size", 4 * hidden), k.flag("bias", False)
    tied = k.flag("tie_word_embeddings", True)
    return _layernorm(sizes, ffn=ffn, bias=bias, tied=tied, kv_heads=kv_heads) | {
        "parallel_block": parallel,
        "block_norms": norms if parallel else 2,
        "alibi": k.flag("alibi", False),
    }


def _deepseek(k: Keys) -> Fields:
    """DeepSeek V2 and V3: latent attention and experts.

    `q_lora_rank` null: queries are not compressed. Layers that predict tokens further ahead
    (`num_nextn_predict_layers`) are not counted.
    """
    moe = {
        "num_experts": k.size("n_routed_experts"),
        "top_k": k.size("num_experts_per_tok"),
        "ffn_size": k.size("moe_intermediate_size"),
        "shared_experts": k.count_or("n_shared_experts", 0),
        "first_dense_layers": k.count_or("first_k_dense_replace", 0),
        "every": k.size_or("moe_layer_freq", 1),
    }
    mla = {
        "kv_rank": k.size("kv_lora_rank"),
        "query_rank": k.count_or("q_lora_rank", 0),
        "nope_size": k.size("qk_nope_head_dim"),
        "rope_size": k.size("qk_rope_head_dim"),
        "value_size": k.size("v_head_dim"),
    }
    if moe["every"] > 1:
        raise ParplanError(f"{k.where}: moe_layer_freq: {moe['every']} is not modelled, only 1")
    # Some files give the rotary part of a head as head_dim; the latent sizes say all.
    return _gated(k) | {"moe": moe, "mla": mla, "head_dim": None}


def _gpt_oss(k: Keys) -> Fields:
    """Layers alternate, the first one with the window; everything has a bias."""
    fields = _gated(k, kv_heads=8)
    moe = {
        "num_experts": k.size("num_local_experts"),
        "top_k": k.size_or("num_experts_per_tok", 4),
        "ffn_size": fields["ffn_size"],
    }
    fields |= {"bias": True, "head_dim": k.size_or("head_dim", 64), "moe": moe}
    return fields | _window(k.optional("sliding_window", 128), 2)


FAMILIES: dict[str, Callable[[Keys], Fields]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "bloom": _bloom,
    "opt": _opt,
    "mpt": _mpt,
    "falcon": _falcon,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "gpt_oss": _gpt_oss,
}
"""By `model_type`."""
