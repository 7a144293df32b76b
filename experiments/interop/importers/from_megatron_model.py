"""The model and its numbers in the arguments of Megatron-LM."""

import ast
import math
from typing import Any

from parplan._strict import build
from parplan.errors import ParplanError
from parplan.experiments.interop.importers.imported import ImportedSettings
from parplan.experiments.interop.shell.launch_text import Flags
from parplan.sim.models.model import Model

VOCABULARIES = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}
"""Of tokenizers that have one of a known size."""

MOST_LAYERS = 1000

FLASH = (
    *("--use-flash-attn", "--use-flash-attn-v1", "--use-flash-attn-v2"),
    *("--use-flash-attn-triton", "--use-flash-attn-builder"),
)

BEFORE_2024 = (
    *("--deepspeed", "--data-impl", "--DDP-impl", "--checkpoint-activations"),
    *("--activations-checkpoint-method", "--model-parallel-size", "--create-moe-param-group"),
)
"""Arguments of Megatron-DeepSpeed, and of Megatron-LM before Transformer Engine was its default."""

NUMBERS = {
    "rope_theta": ("--rotary-base", "--rotary-position-embeddings-theta"),
    "norm_epsilon": ("--norm-epsilon", "--layernorm-epsilon"),
}
"""Numbers of the model that it keeps for exports."""

OF_DEEPSPEED = (
    *("--deepspeed", "--deepspeed-config", "--moe-expert-parallel-size", "--topk"),
    *("--expert-interval", "--mlp-type", "--create-moe-param-group"),
)
"""Arguments of Megatron-DeepSpeed, whose experts have defaults of their own."""

OPTIMIZERS = {"adam": "adamw", "sgd": "sgd", "muon": "muon", "dist_muon": "muon"}
"""Of `--optimizer`."""

PADDED_TO = 128
"""`--make-vocab-size-divisible-by`, of which each tensor-parallel rank has a multiple."""


def numbers_of(flags: Flags, found: ImportedSettings) -> dict[str, Any]:
    """Precision, optimizer, attention and dropout as fields of `Workload`."""
    precision = "fp16" if flags.has("--fp16") else "bf16" if flags.has("--bf16") else "fp32"
    if flags.has("--fp8-format", "--fp8-hybrid", "--fp8-e4m3"):
        precision = "fp8"
    if flags.text("--fp4-format") is not None:
        precision = "fp4"
    optimizer = flags.text("--optimizer") or "adam"
    if optimizer not in OPTIMIZERS:
        found.misread(f"--optimizer {optimizer}", "its state is taken to be that of adam")
    backend = flags.text("--attention-backend") or "auto"
    unfused = backend in ("unfused", "local") or (
        backend == "auto" and _local_attention(flags, found)
    )
    rates = [_rate(flags, f"--{name}-dropout") for name in ("attention", "hidden")]
    return {
        "precision": precision,
        "optimizer": _optimizer(flags, OPTIMIZERS.get(optimizer, "adamw"), found),
        "attention": "unfused" if unfused else "flash",
        "dropout": any(rate > 0 for rate in rates),
    }


def _local_attention(flags: Flags, found: ImportedSettings) -> bool:
    """Whether attention is Megatron's own, which is unfused unless FlashAttention is asked for."""
    flash = flags.has(*FLASH)
    said = flags.text("--transformer-impl")
    early = [name for name in BEFORE_2024 if name in flags.words]
    if said is None and early and not flash:
        found.note("attention", f"unfused, the default of releases with {early[0]}")
    return not flash and (said == "local" or (said is None and bool(early)))


def _optimizer(flags: Flags, name: str, found: ImportedSettings) -> str:
    """The optimizer, with what its moments are kept in."""
    kinds = [flags.text(f"--{moment}-dtype") or "fp32" for moment in ("exp-avg", "exp-avg-sq")]
    if not flags.has("--use-precision-aware-optimizer") or kinds == ["fp32", "fp32"]:
        return name
    if name == "adamw" and kinds in (["bf16", "bf16"], ["fp16", "fp16"]):
        return "adamw-bf16"
    if name == "adamw" and kinds == ["fp8", "fp8"]:
        return "adamw-8bit"
    found.misread("--exp-avg-dtype, --exp-avg-sq-dtype", "moments are taken to be fp32")
    return name


def _rate(flags: Flags, name: str) -> float:
    text = flags.text(name) or "0.1"
    try:
        return float(text)
    except ValueError:
        raise ParplanError(f"{flags.where}: {name}: expected a number, got {text!r}") from None


def model_of(
    flags: Flags, found: ImportedSettings, vocab_size: int | None, tensor_parallel: int
) -> Model:
    """The model that the arguments describe; raises `ParplanError` for sizes that are missing."""
    where = flags.where
    hidden, heads = _size(flags, "--hidden-size"), _size(flags, "--num-attention-heads")
    gated = flags.has("--swiglu", "--quick-geglu", "--geglu")
    gated |= flags.text("--glu-activation") is not None
    usual = hidden * 8 // 3 // 64 * 64 if gated else 4 * hidden
    of_deepspeed = flags.number("--num-key-value-heads")
    grouped = flags.has("--group-query-attention") or of_deepspeed is not None
    groups = of_deepspeed or flags.number("--num-query-groups") or 1
    plain = not flags.has("--disable-bias-linear")
    kind = flags.text("--position-embedding-type") or "learned_absolute"
    rotary = flags.has("--use-rotary-position-embeddings", "--no-position-embedding")
    rotary |= kind != "learned_absolute"
    positions = flags.number("--max-position-embeddings") or 0
    norm = flags.text("--normalization") or "LayerNorm"
    layers = _size(flags, "--num-layers")
    table = {
        "name": f"megatron-{layers}x{hidden}",
        "num_layers": layers,
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": groups if grouped else heads,
        "ffn_size": flags.number("--ffn-hidden-size") or usual,
        "vocab_size": _vocabulary(flags, found, vocab_size, tensor_parallel),
        "mlp": "gated" if gated else "plain",
        "norm": "rmsnorm" if norm.lower() == "rmsnorm" or flags.has("--RMSNorm") else "layernorm",
        "bias": plain,
        "qkv_bias": flags.has("--add-qkv-bias"),
        "query_key_norm": flags.has("--qk-layernorm"),
        "tied_embeddings": not flags.has("--untie-embeddings-and-output-weights"),
        "learned_positions": 0 if rotary else positions,
        "alibi": kind == "alibi",
        "source": f"arguments in {where}",
    }
    channels = flags.number("--kv-channels")
    if channels is not None and channels * heads != hidden:
        table["head_dim"] = channels
    for field, names in NUMBERS.items():
        if flags.has(*names):
            table[field] = _positive(flags, names)
    table |= _experts(flags, layers, table["ffn_size"])
    table |= _latent(flags)
    table |= _local(flags)
    return build(Model, table, where)


def _positive(flags: Flags, names: tuple[str, ...]) -> float:
    text = flags.text(*names) or ""
    try:
        if 0 < (found := float(text)) < math.inf:
            return found
    except ValueError:
        pass
    raise ParplanError(f"{flags.where}: {names[0]}: expected a positive number, got {text!r}")


def _size(flags: Flags, name: str) -> int:
    found = flags.number(name)
    if found is None:
        raise ParplanError(f"{flags.where}: {name} is missing; give it, or --model")
    return found


def _vocabulary(
    flags: Flags, found: ImportedSettings, given: int | None, tensor_parallel: int
) -> int:
    # A file of merges is that of GPT-2's tokenizer.
    usual = "GPT2BPETokenizer" if flags.has("--merge-file") else ""
    tokenizer = flags.text("--tokenizer-type") or usual
    said = flags.number("--vocab-size")
    size = given or said or VOCABULARIES.get(tokenizer)
    divisor = flags.number("--make-vocab-size-divisible-by") or PADDED_TO
    whole = flags.number("--pad-vocab-size-to") or flags.number("--padded-vocab-size")
    if whole is not None and given is None:
        return whole
    if size is None:
        raise ParplanError(
            f"{flags.where}: the vocabulary is that of {tokenizer or 'a tokenizer'}; "
            "give --vocab-size"
        )
    padded = -(-size // (divisor * tensor_parallel)) * divisor * tensor_parallel
    if padded != size:
        found.note(f"--vocab-size {size}", f"padded to {padded}, as Megatron-LM does")
    return padded


def _experts(flags: Flags, layers: int, ffn: object) -> dict[str, Any]:
    experts = _number_of_experts(flags)
    width = flags.number("--moe-ffn-hidden-size") or ffn
    of_deepspeed = flags.has(*OF_DEEPSPEED)
    top = flags.number("--moe-router-topk") or (1 if of_deepspeed else 2)
    shared = flags.number("--moe-shared-expert-intermediate-size") or 0
    kinds = _pattern(flags, flags.text("--moe-layer-freq") or "1", layers)
    if of_deepspeed:
        interval = flags.number("--expert-interval") or 2
        kinds = [int(layer % interval == 0) for layer in range(1, layers + 1)]
    if experts is None or (experts == 1 and not flags.has("--moe-router-topk")):
        return {}
    if isinstance(width, int) and flags.text("--mlp-type") == "residual":
        shared = width
    if not isinstance(width, int) or shared % width:
        raise ParplanError(
            f"{flags.where}: --moe-shared-expert-intermediate-size {shared}: expected a multiple "
            f"of the {width} of one expert"
        )
    first = kinds.index(1) if 1 in kinds else layers
    dense = first if len(kinds) > 1 else 0
    gap = kinds[first + 1 :].index(1) + 1 if 1 in kinds[first + 1 :] else 1
    # Layers count from the first that may have experts: each so-manieth, the last of each group.
    moe = {
        "num_experts": experts,
        "top_k": top,
        "ffn_size": width,
        "shared_experts": shared // width,
        "every": gap,
        "first_dense_layers": max(0, dense - gap + 1),
    }
    rebuilt = [
        int(i >= moe["first_dense_layers"] and (i - moe["first_dense_layers"] + 1) % gap == 0)
        for i in range(layers)
    ]
    if rebuilt != kinds:
        raise ParplanError(
            f"{flags.where}: --moe-layer-freq: experts in each so-manieth layer after some dense "
            "ones are known, no other pattern"
        )
    return {"moe": moe}


def _number_of_experts(flags: Flags) -> int | None:
    """Of each layer with experts; raises `ParplanError` where layers differ."""
    said = flags.texts("--num-experts")
    if len(set(said)) > 1:
        raise ParplanError(
            f"{flags.where}: --num-experts {' '.join(said)}: not modelled: layers with different "
            "numbers of experts"
        )
    return flags.number("--num-experts")


def _pattern(flags: Flags, text: str, layers: int) -> list[int]:
    """1 for a layer with experts: `2`, or `([0]*1+[1]*26)`."""
    if text.isdigit():
        return [int(i % int(text) == 0) for i in range(layers)]
    try:
        kinds = _list(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError):
        kinds = None
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ParplanError(f"{flags.where}: --moe-layer-freq: expected {layers} of 0 and 1: {text}")
    return kinds


def _list(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.List):
        return [_list(item) for item in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _list(node.left), _list(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(right, int) and right <= MOST_LAYERS and len(left) <= MOST_LAYERS:
            return left * right
    raise ValueError(node)


def _latent(flags: Flags) -> dict[str, Any]:
    names = ("--kv-lora-rank", "--q-lora-rank", "--qk-head-dim", "--qk-pos-emb-head-dim")
    kv, query, nope, rope = (flags.number(name) for name in names)
    value = flags.number("--v-head-dim")
    if not flags.has("--multi-latent-attention"):
        return {}
    sizes = {"kv_rank": kv or 32, "query_rank": query or 0, "nope_size": nope or 128}
    return {"mla": sizes | {"rope_size": rope or 64, "value_size": value or 128}}


def _local(flags: Flags) -> dict[str, Any]:
    window, every = flags.text("--window-size"), flags.text("--window-attn-skip-freq")
    if window is None:
        return {}
    try:
        before = int(window.strip("()").split(",")[0])
        globally = int(every or 0)
    except ValueError:
        raise ParplanError(
            f"{flags.where}: --window-size {window}, --window-attn-skip-freq {every}: expected "
            "numbers, as in 4095,0 and 2"
        ) from None
    return {"local": {"window": before + 1, "global_every": globally}}
