"""A model and its numbers as settings of Megatron-LM and Megatron-Bridge."""

from parplan.experiments.interop.megatron_settings import MegatronSetting
from parplan.sim.models.model import Model
from parplan.sim.workload import Workload

RECIPES = {
    "bf16": "bf16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "fp4": "bf16_with_nvfp4_mixed",
}
"""What Megatron-Bridge calls mixed precision of bf16 and narrower products."""


def model_settings(workload: Workload) -> tuple[list[MegatronSetting], list[str]]:
    """The architecture and the data, and what cannot be said of them."""
    m = workload.model
    settings = [
        MegatronSetting("--num-layers", "model.num_layers", m.num_layers),
        MegatronSetting("--hidden-size", "model.hidden_size", m.hidden_size),
        MegatronSetting("--ffn-hidden-size", "model.ffn_hidden_size", m.ffn_size),
        MegatronSetting("--num-attention-heads", "model.num_attention_heads", m.num_heads),
        *_heads(m),
        MegatronSetting("--seq-length", "model.seq_length", workload.seq_len),
        MegatronSetting(
            "--max-position-embeddings", "", max(workload.seq_len, m.learned_positions)
        ),
        *_positions(m),
        MegatronSetting("--vocab-size", "model.vocab_size", m.vocab_size),
        MegatronSetting("--tokenizer-type", "", "NullTokenizer"),
        MegatronSetting(
            "--normalization",
            "model.normalization",
            "RMSNorm" if m.norm == "rmsnorm" else "LayerNorm",
        ),
        MegatronSetting("--swiglu", "model.gated_linear_unit", m.mlp == "gated"),
        MegatronSetting("--disable-bias-linear", "model.add_bias_linear", not m.bias, m.bias),
        MegatronSetting("--add-qkv-bias", "model.add_qkv_bias", m.qkv_bias and not m.bias),
        MegatronSetting("--qk-layernorm", "model.qk_layernorm", m.query_key_norm),
        MegatronSetting(
            "--untie-embeddings-and-output-weights",
            "model.share_embeddings_and_output_weights",
            not m.tied_embeddings,
            m.tied_embeddings,
        ),
        *_experts(m),
        *_latent(m),
        *_local(m),
        *_numbers(workload),
    ]
    return settings, _unsaid(workload)


def _heads(m: Model) -> list[MegatronSetting]:
    found = []
    if m.num_kv_heads != m.num_heads and m.mla is None:
        found.append(MegatronSetting("--group-query-attention", "", True))
        found.append(
            MegatronSetting("--num-query-groups", "model.num_query_groups", m.num_kv_heads)
        )
    if m.head_dim is not None:
        found.append(MegatronSetting("--kv-channels", "model.kv_channels", m.head_dim))
    return found


def _positions(m: Model) -> list[MegatronSetting]:
    kind = "none" if m.alibi else "learned_absolute" if m.learned_positions else "rope"
    found = [MegatronSetting("--position-embedding-type", "model.position_embedding_type", kind)]
    if m.rope_theta is not None and kind == "rope":
        base = int(m.rope_theta) if m.rope_theta == int(m.rope_theta) else m.rope_theta
        found.append(MegatronSetting("--rotary-base", "model.rotary_base", base))
    if m.norm_epsilon is not None:
        found.append(MegatronSetting("--norm-epsilon", "model.layernorm_epsilon", m.norm_epsilon))
    return found


def _experts(m: Model) -> list[MegatronSetting]:
    if m.moe is None:
        return []
    moe = m.moe
    found = [
        MegatronSetting("--num-experts", "model.num_moe_experts", moe.num_experts),
        MegatronSetting("--moe-router-topk", "model.moe_router_topk", moe.top_k),
        MegatronSetting("--moe-ffn-hidden-size", "model.moe_ffn_hidden_size", moe.ffn_size),
        MegatronSetting("--moe-grouped-gemm", "model.moe_grouped_gemm", True),
        MegatronSetting(
            "--moe-token-dispatcher-type", "model.moe_token_dispatcher_type", "alltoall"
        ),
    ]
    if moe.shared_experts:
        name = "moe_shared_expert_intermediate_size"
        flag = "--moe-shared-expert-intermediate-size"
        found.append(MegatronSetting(flag, f"model.{name}", moe.shared_experts * moe.ffn_size))
    kinds = [int("moe" in kind) for kind in m.layer_kinds]
    if not all(kinds):
        found.append(
            MegatronSetting("--moe-layer-freq", "model.moe_layer_freq", str(kinds).replace(" ", ""))
        )
    return found


def _latent(m: Model) -> list[MegatronSetting]:
    if m.mla is None:
        return []
    ranks = [MegatronSetting("--q-lora-rank", "model.q_lora_rank", m.mla.query_rank)]
    return [
        MegatronSetting("--multi-latent-attention", "model.multi_latent_attention", True),
        *(ranks if m.mla.query_rank else []),
        MegatronSetting("--kv-lora-rank", "model.kv_lora_rank", m.mla.kv_rank),
        MegatronSetting("--qk-head-dim", "model.qk_head_dim", m.mla.nope_size),
        MegatronSetting("--qk-pos-emb-head-dim", "model.qk_pos_emb_head_dim", m.mla.rope_size),
        MegatronSetting("--v-head-dim", "model.v_head_dim", m.mla.value_size),
    ]


def _local(m: Model) -> list[MegatronSetting]:
    """A window counts the tokens before a token, here also the token itself."""
    if m.local is None:
        return []
    size = f"{m.local.window - 1},0"
    found = [MegatronSetting("--window-size", "model.window_size", size)]
    if m.local.global_every:
        every = m.local.global_every
        found.append(
            MegatronSetting("--window-attn-skip-freq", "model.window_attn_skip_freq", every)
        )
    return found


def _numbers(workload: Workload) -> list[MegatronSetting]:
    precision = workload.precision
    found = []
    if precision in RECIPES:
        found.append(MegatronSetting("--bf16", "mixed_precision", True, RECIPES[precision]))
    if precision == "fp16":
        found.append(MegatronSetting("--fp16", "mixed_precision", True, "fp16_mixed"))
    if precision == "fp8":
        found.append(MegatronSetting("--fp8-format", "", "hybrid"))
    if precision == "fp4":
        found.append(MegatronSetting("--fp4-format", "", "e2m1"))
    optimizer = "adam" if workload.optimizer.startswith("adamw") else workload.optimizer
    found.append(MegatronSetting("--optimizer", "optimizer.optimizer", optimizer))
    rate = 0.1 if workload.dropout else 0.0
    found += [
        MegatronSetting("--attention-dropout", "model.attention_dropout", rate),
        MegatronSetting("--hidden-dropout", "model.hidden_dropout", rate),
    ]
    backend = "unfused" if workload.attention in ("unfused", "eager") else "flash"
    return [*found, MegatronSetting("--attention-backend", "model.attention_backend", backend)]


def _unsaid(workload: Workload) -> list[str]:
    m = workload.model
    rotary = not m.learned_positions and not m.alibi
    numbers = {"rope_theta": not rotary or m.rope_theta, "norm_epsilon": m.norm_epsilon}
    unsaid = [f"model.{name}" for name, said in numbers.items() if not said]
    lines = [f"{' and '.join(unsaid)}: not in the plan; left to the default"] if unsaid else []
    if m.alibi:
        lines.append("model.alibi: no such position embedding; exported as none")
    if m.parallel_block:
        lines.append("model.parallel_block: attention and MLP run one after the other")
    if m.block_norms != (1 if m.parallel_block else 2):
        lines.append(f"model.block_norms {m.block_norms}: blocks have two normalisations")
    if not m.norm_bias and m.norm == "layernorm":
        lines.append("model.norm_bias false: a LayerNorm has a bias")
    if m.mlp == "gated":
        lines.append("model.mlp gated: exported with SiLU; the activation is not in the plan")
    if workload.attention == "eager":
        lines.append("workload.attention eager: exported as unfused, which fuses the softmax")
    if workload.optimizer == "adamw-bf16":
        lines.append(
            "workload.optimizer adamw-bf16: add --use-precision-aware-optimizer "
            "--exp-avg-dtype bf16 --exp-avg-sq-dtype bf16"
        )
    if workload.optimizer == "adamw-8bit":
        lines.append("workload.optimizer adamw-8bit: exported as adam, whose moments are fp32")
    if not workload.fused_norms:
        lines.append("workload.fused_norms false: normalisations are fused")
    if not workload.fused_elementwise:
        lines.append(
            "workload.fused_elementwise false: add --no-rope-fusion and --no-bias-swiglu-fusion"
        )
    return lines
