"""What a YAML of gpt-neox asks for. Defaults are those of May 2026."""

from typing import Any

from parplan._strict import build
from parplan.errors import ParplanError
from parplan.experiments.interop.importers.asked import Asked, refuse_other_format, report_rest
from parplan.experiments.interop.importers.from_accelerate import read_yaml
from parplan.experiments.interop.importers.from_deepspeed import (
    BATCHES,
    optimizer_of,
    precision_of,
    zero_plan,
)
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.neox_keys import NO_EFFECT, NOT_MODELLED
from parplan.sim.models.model import Model
from parplan.sim.software.presets import habits_like

GATED = ("geglu", "reglu", "swiglu", "bilinear", "glu")
VOCABULARIES = {"GPT2BPETokenizer": 50257, "HFGPT2Tokenizer": 50257, "CharLevelTokenizer": 512}
READ = (
    *("num_layers", "hidden_size", "num_attention_heads", "num_kv_heads", "seq_length"),
    *("max_position_embeddings", "norm", "pos_emb", "no_weight_tying", "attention_config"),
    *("gpt_j_residual", "pipe_parallel_size", "model_parallel_size", "zero_optimization"),
    *("optimizer", "fp16", "bf16", "precision", "hidden_dropout", "attention_dropout"),
    *("checkpoint_activations", "checkpoint_num_layers", "activation", "intermediate_size"),
    *("make_vocab_size_divisible_by", "tokenizer_type", "zero_stage", *BATCHES),
)


OF_TRAINING = {
    ("precision", "fp16", "bf16", "bfloat16"): "fp32 is taken",
    ("zero_optimization", "zero_stage"): "ZeRO-0 is taken",
    ("optimizer", "optimizer_type"): "adamw is taken",
}
"""Settings that a whole configuration has, by any of their names, and what gpt-neox takes."""


def from_neox(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a YAML, in which names have underscores or dashes."""
    values = {str(k).replace("-", "_"): v for k, v in read_yaml(text, where).items()}
    table = Asked(values, where)
    if not {"num_layers", "pipe_parallel_size", "model_parallel_size"} & set(values):
        raise ParplanError(
            f"{where}: not a configuration of gpt-neox: it has no num_layers and no degrees"
        )
    known = (*READ, *NO_EFFECT, *NOT_MODELLED)
    refuse_other_format(table, known, "a configuration of gpt-neox")
    found = ImportedSettings(software="gpt-neox")
    attention = _attention(table, found)
    tensor = table.whole("model_parallel_size", 1, least=1)
    found.model = given.model or _model(table, found, given, tensor)
    found.seq_len = table.number("seq_length", least=1)
    stages = max(1, table.whole("pipe_parallel_size", 0, least=0))
    found.plan = {
        "tensor_parallel": tensor,
        "sequence_parallel": table.true("sequence_parallel") and tensor > 1,
        "context_parallel": table.whole("context_parallel_size", 1, least=1),
        "num_stages": stages,
        **zero_plan(_zero_section(table), found),
    }
    if table.true("checkpoint_activations"):
        found.plan["recomputation"] = "full"
        if (each := table.whole("checkpoint_num_layers", 1, least=1)) > 1:
            found.note("checkpoint_num_layers", f"{each}: one layer is recomputed at a time")
    else:
        table.get("checkpoint_num_layers")
    _batches(table, found, given, tensor * stages * found.plan["context_parallel"])
    precision = _precision(table, found)
    beside = precision == "bf16" and not found.plan["distribute_gradient"]
    asked = (
        table.get("communication_data_type"),
        table.section("data_types").get("grad_accum_dtype"),
    )
    low = table.true("fp32_allreduce") or "fp32" in asked
    if table.true("partition_activations") and tensor > 1:
        found.misread("partition_activations", "not modelled: every rank keeps all of a block")
    found.plan["gradient_dtype"] = "fp32" if low else "as computed"
    rotary = table.text("pos_emb", "learned") == "rotary"
    found.workload = {
        "precision": precision,
        "optimizer": optimizer_of(table.section("optimizer"), found),
        "attention": attention,
        "dropout": any(
            float(table.get(name) or 0) > 0 for name in ("hidden_dropout", "attention_dropout")
        ),
        "fused_elementwise": table.true("rope_fusion") or not rotary,
        "software": habits_like("gpt-neox", low_precision_gradients=beside),
    }
    _say_what_is_elsewhere(table, found)
    report_rest(found, table, NO_EFFECT, NOT_MODELLED)
    return found


def _say_what_is_elsewhere(table: Asked, found: ImportedSettings) -> None:
    """Say that a file of a model alone leaves its training to another: gpt-neox joins several."""
    for names, assumed in OF_TRAINING.items():
        if not any(name in table for name in names):
            found.misread(names[0], f"not said, which may be in another of its files; {assumed}")


def _zero_section(table: Asked) -> Asked:
    """The section, or `zero_stage` where that stands alone."""
    section = table.section("zero_optimization")
    if "zero_stage" in table and not section:
        stage = table.whole("zero_stage", 0, least=0)
        return Asked({"stage": stage}, table.where, "zero_optimization.")
    return section


def _precision(table: Asked, found: ImportedSettings) -> str:
    names = {"fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "fp32": "fp32"}
    said = table.text("precision")
    if said and said not in names:
        raise table.error("precision", "fp16, bfloat16 or fp32")
    section = precision_of(table, found, {"bf16": False, "fp16": False})
    if said and section != "fp32" and names[said] != section:
        raise ParplanError(f"{table.where}: precision {said}, but {section} is switched on")
    return names[said] if said else section


def _batches(table: Asked, found: ImportedSettings, given: Given, own: int) -> None:
    total, micro, steps = (table.number(key, least=1) for key in BATCHES)
    micro, total = given.micro_batch or micro, given.global_batch or total
    if micro is None and total is None:
        raise ParplanError(
            f"{table.where}: does not say train_micro_batch_size_per_gpu, which may be in another "
            "of its files; give --micro-batch"
        )
    if given.devices is not None:
        ranks = max(1, given.devices // own)
        if micro is None and total is not None:
            micro = max(1, total // (ranks * (steps or 1)))
        if total is None:
            total = (micro or 1) * (steps or 1) * ranks
    found.plan["batch_per_device"] = micro or 1
    found.global_batch = total


def _attention(table: Asked, found: ImportedSettings) -> str:
    """The kernels that all layers have; raises `ParplanError` for layers without attention."""
    kinds = _kinds(table.get("attention_config"))
    flash = bool(kinds) and kinds <= {"flash"}
    fused = table.true("scaled_upper_triang_masked_softmax_fusion")
    for kind in sorted(kinds - {"flash", "global"}):
        if kind in ("mamba", "rwkv"):
            raise ParplanError(
                f"{table.where}: attention_config {kind}: not modelled: state-space layers"
            )
        found.misread(f"attention_config {kind}", "every token attends to all before it")
    if {"flash", "global"} <= kinds:
        found.misread("attention_config", "some layers have flash; taken as none")
    return "flash-2" if flash else "unfused" if fused else "eager"


def _kinds(value: Any) -> set[str]:
    """The names in `[[["flash"], 40]]` and `[["global", "local"], "all"]`."""
    if isinstance(value, str):
        return set() if value == "all" else {value}
    if isinstance(value, list):
        return {name for item in value[:1000] for name in _kinds(item)}
    return set()


def _model(table: Asked, found: ImportedSettings, given: Given, tensor: int) -> Model:
    hidden, heads = _size(table, "hidden_size"), _size(table, "num_attention_heads")
    kind = table.text("activation", "gelu")
    position = table.text("pos_emb", "learned")
    norm = table.text("norm", "layernorm")
    biases = [table.true(f"use_bias_in_{part}", default=True) for part in ("mlp", "attn_linear")]
    if norm not in ("layernorm", "rmsnorm", "te_layernorm", "te_rmsnorm"):
        found.misread(f"norm {norm}", "rmsnorm is taken")
    fields = {
        "name": f"neox-{_size(table, 'num_layers')}x{hidden}",
        "num_layers": _size(table, "num_layers"),
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": table.number("num_kv_heads", least=1) or heads,
        "ffn_size": _ffn(table, hidden, gated=kind in GATED),
        "vocab_size": _vocabulary(table, found, given, tensor),
        "mlp": "gated" if kind in GATED else "plain",
        "norm": "layernorm" if "layernorm" in norm else "rmsnorm",
        "bias": all(biases),
        "norm_bias": table.true("use_bias_in_norms", default=True),
        "query_key_norm": table.true("use_qk_layernorm"),
        "tied_embeddings": not table.true("no_weight_tying"),
        "learned_positions": _size(table, "max_position_embeddings")
        if position == "learned"
        else 0,
        "alibi": position == "alibi",
        "source": f"settings in {table.where}",
    }
    table.get("max_position_embeddings")
    if position not in ("learned", "rotary", "alibi", "none"):
        found.misread(f"pos_emb {position}", "no positions are taken")
    if table.true("gpt_j_residual"):
        fields |= {"parallel_block": True, "block_norms": 2}
    if window := table.number("sliding_window_width", least=1):
        fields["local"] = {"window": window, "global_every": 0}
    if (experts := table.whole("moe_num_experts", 1, least=1)) > 1:
        fields["moe"] = {
            "num_experts": experts,
            "top_k": table.whole("moe_top_k", 1, least=1),
            "ffn_size": fields["ffn_size"],
            "every": table.whole("moe_expert_interval", 1, least=1),
        }
    return build(Model, fields, table.where)


def _size(table: Asked, key: str) -> int:
    found = table.number(key, least=1)
    if found is None:
        raise ParplanError(f"{table.where}: {key} is missing; give it, or --model")
    return found


def _ffn(table: Asked, hidden: int, *, gated: bool) -> int:
    """The width of an MLP; of a gated one two thirds of what is said, split in two."""
    said = table.number("intermediate_size", least=1)
    factor = table.get("expansion_factor") or 4
    multiple = table.whole("mlp_multiple_of", 1, least=1)
    try:
        width = said or int(float(factor) * hidden)
    except (TypeError, ValueError, OverflowError):
        raise table.error("expansion_factor", "a number") from None
    if gated:
        width = int(width * 2 / 3) // 2
        return -(-width // multiple) * multiple
    return -(-width // (2 * multiple)) * 2 * multiple


def _vocabulary(table: Asked, found: ImportedSettings, given: Given, tensor: int) -> int:
    kind = table.text("tokenizer_type", "GPT2BPETokenizer")
    padded = table.number("padded_vocab_size", least=1)
    size = given.vocab_size or VOCABULARIES.get(kind)
    divisor = table.whole("make_vocab_size_divisible_by", 128, least=1) * tensor
    if padded is not None:
        return padded
    if size is None:
        raise ParplanError(f"{table.where}: the vocabulary is that of a {kind}; give --vocab-size")
    total = -(-size // divisor) * divisor
    if total != size:
        found.note("make_vocab_size_divisible_by", f"{size} padded to {total}")
    return total
