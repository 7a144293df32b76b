"""The model of a configuration of MaxText: a published one by name, or by its sizes."""

import math
import re
from pathlib import Path

from parplan._strict import build
from parplan.errors import ParplanError
from parplan.experiments.interop.dialects.hub_models import hub_model, preset_of
from parplan.experiments.interop.importers.asked import Asked
from parplan.sim.models.model import Model, model_preset

NAMES = {
    "deepseek2-16b": "deepseek-v2-lite",
    "deepseek2-236b": "deepseek-v2",
    "deepseek3-671b": "deepseek-v3",
    "kimi-k2-1t": "kimi-k2",
    "llama4-17b-16e": "llama4-scout",
    "llama4-17b-128e": "llama4-maverick",
    "gpt3-6b": "gpt3-6.7b",
    "llama3.3-70b": "llama3.1-70b",
}
"""Models that are called otherwise here."""

BLOCKS = (
    *("default", "llama2", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gpt3"),
    *("deepseek", "simple", "simple_mlp"),
)
OF_BLOCKS = (
    *("mlp_activations", "vocab_size", "logits_via_embedding", "sliding_window_size"),
    *("use_post_attn_norm", "use_post_ffw_norm", "use_qk_norm", "num_experts", "attention_bias"),
    *("num_experts_per_tok", "base_moe_mlp_dim", "attention_sink", "mlp_bias"),
)
"""What such a file says of its blocks."""

SIZES = {
    **{"base_emb_dim": 2048, "base_num_query_heads": 16, "base_num_kv_heads": 16},
    **{"base_mlp_dim": 7168, "base_num_decoder_layers": 16, "head_dim": 128},
}
"""Sizes of base.yml."""


def maxtext_model(table: Asked) -> Model:
    """The model; raises `ParplanError` for one whose blocks are not known."""
    name = table.text("model_name", "default")
    if name != "default":
        plain = NAMES.get(name, re.sub(r"-(base|thinking|batchsplit|2dfsdp|pt).*$", "", name))
        preset = preset_of(NAMES.get(plain, plain))
        sizes = (*SIZES, "base_moe_mlp_dim", "vocab_size", "num_experts", "decoder_block")
        changed = [size for size in sizes if size in table]
        if changed:
            raise ParplanError(
                f"{table.where}: {', '.join(changed)} beside model_name {name}: another model; "
                "give --model"
            )
        return hub_model(name, table.where) if preset is None else model_preset(preset)
    return _by_sizes(table)


def _by_sizes(table: Asked) -> Model:
    kind = table.text("decoder_block", "llama2")
    if kind not in BLOCKS:
        return _by_name_of_file(table, kind)
    hidden, heads, groups, width, layers, head = _sizes(table)
    activations = table.names("mlp_activations", ("silu", "linear"))
    gpt3 = kind == "gpt3"
    fields = {
        "name": f"maxtext-{layers}x{hidden}",
        "num_layers": layers,
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": groups,
        "ffn_size": width,
        "vocab_size": table.whole("vocab_size", 32000, least=1),
        "head_dim": None if head * heads == hidden else head,
        "mlp": "gated" if "linear" in activations else "plain",
        "norm": "layernorm" if gpt3 else "rmsnorm",
        "bias": gpt3,
        "qkv_bias": table.true("attention_bias"),
        "query_key_norm": table.true("use_qk_norm"),
        "tied_embeddings": table.true("logits_via_embedding"),
        "learned_positions": max(0, table.whole("trainable_position_size", -1)),
        "source": f"settings in {table.where}",
    }
    if (experts := table.whole("num_experts", 1, least=1)) > 1:
        fields["moe"] = {
            "num_experts": experts,
            "top_k": table.whole("num_experts_per_tok", 1, least=1),
            "ffn_size": table.whole("base_moe_mlp_dim", width),
            "shared_experts": table.whole("shared_experts", 0, least=0),
            "first_dense_layers": table.whole("first_num_dense_layers", 0, least=0),
            "every": table.whole("interleave_moe_layer_step", 1, least=1),
        }
    if table.text("attention_type", "global") == "mla":
        fields |= {"head_dim": None}
        fields["mla"] = {
            "query_rank": table.whole("q_lora_rank", 0, least=0),
            "kv_rank": table.whole("kv_lora_rank", 512, least=1),
            "nope_size": table.whole("qk_nope_head_dim", 128, least=1),
            "rope_size": table.whole("qk_rope_head_dim", 64, least=1),
            "value_size": table.whole("v_head_dim", 128, least=1),
        }
    if (window := table.whole("sliding_window_size", 0, least=0)) > 0:
        fields["local"] = {"window": window, "global_every": 0}
    return build(Model, fields, table.where)


def _by_name_of_file(table: Asked, kind: str) -> Model:
    """The published model that a file is called after, where its width is that.

    Raises `ParplanError` for others: what their blocks have is not known here.
    """
    stem = Path(table.where).stem
    preset = preset_of(NAMES.get(stem, stem))
    if preset is None or model_preset(preset).hidden_size != table.whole("base_emb_dim", 0):
        raise ParplanError(f"{table.where}: decoder_block {kind}: not known here; give --model")
    for name in (*SIZES, *OF_BLOCKS):
        table.get(name)
    return model_preset(preset)


def _sizes(table: Asked) -> tuple[int, int, int, int, int, int]:
    """Width, heads, groups, width of an MLP, layers and width of a head, all scaled.

    `global_parameter_scale` doubles heads and MLP, then the width, then the layers, in turn.
    """
    hidden, heads, groups, width, layers, head = (
        table.whole(name, usual, least=1) for name, usual in SIZES.items()
    )
    scale = table.whole("global_parameter_scale", 1, least=1)
    power = round(math.log2(scale))
    if 2**power != scale:
        raise table.error("global_parameter_scale", "a power of 2")
    whole, rest = divmod(power, 3)
    wide = 2 ** (whole + (rest > 0))
    hidden *= 2 ** (whole + (rest > 1))
    return hidden, heads * wide, groups * wide, width * wide, layers * 2**whole, head
