"""What a YAML or a launch script of MaxText asks for. Defaults are those of August 2026's base.yml.

A script gives `key=value` after the name of a YAML, of which those beside it are read.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from parplan._strict import parse_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.interop.beside import beside
from parplan.experiments.interop.dialects.maxtext_model import maxtext_model
from parplan.experiments.interop.importers.asked import Asked, refuse_other_format, report_rest
from parplan.experiments.interop.importers.from_accelerate import read_yaml
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.maxtext_keys import NO_EFFECT, NOT_MODELLED
from parplan.experiments.interop.megatron_plan import WHOLE
from parplan.experiments.interop.shell.script import Script, read_script
from parplan.sim.plan import zero_fields

AXES = {
    "data": ("data", "diloco"),
    "fsdp": ("fsdp", "fsdp_transpose"),
    "tensor": ("tensor", "tensor_transpose", "tensor_sequence"),
    "context": ("context", "sequence", "context_usp_ulysses"),
    "pipeline": ("pipeline",),
    "expert": ("expert",),
    "autoregressive": ("autoregressive", "context_autoregressive"),
}
"""Axes of the mesh, by what they split here."""

_CHEAP = ("attention norm", "mlp norm", "rotary", "mlp activation", *WHOLE["moe"])
_OF_EXPERTS = (*WHOLE["moe"], "shared experts up", "shared experts down")
_MLP = ("mlp up", "mlp down", "shared experts up", "shared experts down")
POLICIES: dict[str, tuple[str, ...]] = {
    "minimal": (*_CHEAP, "attention"),
    "minimal_with_quantization": (*_CHEAP, "attention"),
    "minimal_flash": _CHEAP,
    "minimal_with_context": _CHEAP,
    "minimal_with_context_and_quantization": _CHEAP,
    "save_dot_with_context_except_mlp": (*_CHEAP, *_MLP),
    "save_dot_except_mlp": (*_CHEAP, *_MLP, "attention"),
    "save_dot_except_mlpwi": (*_CHEAP, "attention", "mlp up", "shared experts up"),
    "save_qkv_proj": (*_CHEAP, *_MLP, "attention", "projection"),
}
"""`remat_policy` by what is computed again; what is not named there is saved."""

READ = (
    *("model_name", "per_device_batch_size", "max_target_length", "remat_policy", "attention"),
    *("dtype", "quantization", "opt_type", "gradient_accumulation_steps", "decoder_block"),
    *("ici_*", "dcn_*", "base_*", "num_*", "enable_dropout", "shard_optimizer_over_data"),
    *("global_parameter_scale", "vocab_size", "optimizer_memory_host_offload", "head_dim"),
    *("mlp_activations", "logits_via_embedding", "attention_*", "global_*", "sliding_window_size"),
    *("use_*", "moe_*", "shared_experts", "*_for_vit", "vision_*", "v_head_dim", "*_lora_rank"),
)
OPTIMIZERS = {"adamw": "adamw", "adam_pax": "adamw", "sgd": "sgd", "muon": "muon"}
_SETTING = re.compile(r"([a-z][a-z0-9_]*)=(.*)", re.DOTALL)


def from_maxtext(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a YAML, or of the command that starts MaxText in a script."""
    found = ImportedSettings(software="maxtext")
    if where.endswith((".yml", ".yaml")):
        values = _with_base(read_yaml(text, where), where, found, 0)
    else:
        values = _of_script(read_script(text, where, given.variables), found)
    table = Asked(values, where)
    refuse_other_format(table, (*READ, *NO_EFFECT, *NOT_MODELLED), "a configuration of MaxText")
    found.model = given.model or maxtext_model(table)
    found.seq_len = table.whole("max_target_length", 2048, least=1)
    degrees = _degrees(table, given.devices, found)
    if "per_device_batch_size" not in table and "max_target_length" not in table:
        found.misread(
            "per_device_batch_size, max_target_length",
            "not said, as in a file of a model alone; those of base.yml are taken",
        )
    found.plan = _layout(table, degrees, found)
    found.plan |= _pipeline(table, degrees["pipeline"], found.model.num_layers, found)
    found.plan |= _recomputation(table, found, experts=found.model.moe is not None)
    found.workload = _numbers(table, found)
    _batches(table, degrees, found, given)
    report_rest(found, table, NO_EFFECT, NOT_MODELLED)
    return found


def _with_base(
    values: Mapping[str, Any], where: str, found: ImportedSettings, depth: int
) -> dict[str, Any]:
    """The settings, over those of the YAML that `base_config` names."""
    name = values.get("base_config")
    if not isinstance(name, str) or name.rpartition("/")[2] == "base.yml":
        return dict(values)
    path = beside(where, name)
    if path is None or depth > 5:
        found.misread(f"base_config {name}", "not beside the file; base.yml is taken")
        return dict(values)
    return {
        **_with_base(read_yaml(read_text(path), str(path)), str(path), found, depth + 1),
        **values,
    }


def _of_script(script: Script, found: ImportedSettings) -> dict[str, Any]:
    """`key=value` of the command that starts MaxText, over the YAML that it names.

    Raises `ParplanError` for a script with none, and for a value that is not known.
    """
    commands = [words for words in script.commands if _starts(words)]
    if not commands:
        raise ParplanError(f"{script.where}: no command starts MaxText with a .yml")
    words = max(commands, key=len)
    files = [word for word in words if word.endswith(".yml")]
    values: dict[str, Any] = {}
    if files and files[0].rpartition("/")[2] != "base.yml":
        name = script.scope.unknowns.shown(files[0])
        path = beside(script.where, name)
        if path is None and not any(word.startswith("model_name=") for word in words):
            raise ParplanError(
                f"{script.where}: {name} is not beside the script; put it there, or import it by "
                "itself"
            )
        if path is None:
            found.misread(name, "not beside the script; base.yml is taken")
        else:
            values |= _with_base(read_yaml(read_text(path), str(path)), str(path), found, 0)
    for word in words:
        match = _SETTING.fullmatch(word)
        if match is not None:
            values[match[1]] = _value(match[1], match[2], script)
    return values


def _starts(words: list[str]) -> bool:
    text = " ".join(words)
    return "maxtext" in text.lower() and ".yml" in text and any(map(_SETTING.fullmatch, words))


def _value(name: str, text: str, script: Script) -> Any:
    for unknown in script.scope.unknowns.within(text):
        if name in NO_EFFECT or any(
            pattern.endswith("*") and name.startswith(pattern[:-1]) for pattern in NO_EFFECT
        ):
            return script.scope.unknowns.shown(text)
        raise ParplanError(f"{script.where}: {name}: {unknown.why}")
    try:
        return parse_json(text.lower() if text.lower() in ("true", "false") else text, name)
    except ParplanError:
        return text


def _degrees(table: Asked, devices: int | None, found: ImportedSettings) -> dict[str, int]:
    """Degrees by what they split; an axis of -1 takes the devices that the others leave."""
    sizes = {}
    for place, usual in (("dcn", {"data": -1}), ("ici", {"fsdp": -1})):
        for axis in (axis for axes in AXES.values() for axis in axes):
            name = f"{place}_{axis}_parallelism"
            sizes[name] = table.whole(name, usual.get(axis, 1))
    slices = table.whole("num_slices", table.whole("compile_topology_num_slices", 1))
    inner = [size for name, size in sizes.items() if name.startswith("ici")]
    if not {"num_slices", "compile_topology_num_slices"} & set(table) and min(inner) > 0:
        # Each slice has the devices of the axes within one.
        slices = max(1, (devices or 1) // math.prod(inner))
    dcn = math.prod(size for name, size in sizes.items() if name.startswith("dcn") and size > 0)
    for name in [name for name, size in sizes.items() if size < 1]:
        if name.startswith("dcn"):
            sizes[name] = max(1, slices // dcn)
        elif devices is None:
            raise ParplanError(f"{table.where}: {name} -1: give the devices by --cluster")
        else:
            others = math.prod(size for other, size in sizes.items() if size > 0 and other != name)
            sizes[name] = max(1, devices // others)
    found.devices = math.prod(sizes.values())
    return {
        kind: math.prod(sizes[f"{p}_{axis}_parallelism"] for p in ("dcn", "ici") for axis in axes)
        for kind, axes in AXES.items()
    }


def _layout(table: Asked, degrees: dict[str, int], found: ImportedSettings) -> dict[str, Any]:
    """Tensor, context and expert parallelism, and what FSDP's axis shards."""
    if degrees["autoregressive"] > 1:
        raise ParplanError(f"{table.where}: autoregressive parallelism: of generation alone")
    sharded = degrees["fsdp"] * degrees["expert"] * degrees["context"] > 1
    over_data = table.true("shard_optimizer_over_data")
    stage = 3 if sharded else 1 if over_data and degrees["data"] > 1 else 0
    found.copies = degrees["data"] if sharded else 1
    by_sequence = table.whole("ici_tensor_sequence_parallelism", 1) > 1
    return {
        "tensor_parallel": degrees["tensor"],
        "sequence_parallel": by_sequence and degrees["tensor"] > 1,
        "context_parallel": degrees["context"],
        "expert_parallel": degrees["expert"],
        "expert_tensor_parallel": None,
        **zero_fields(stage),
        "gradient_dtype": "fp32",
        "overlap_parameter_gather": stage == 3,
        "offload_optimizer": table.true("optimizer_memory_host_offload"),
    }


def _pipeline(table: Asked, stages: int, layers: int, found: ImportedSettings) -> dict[str, Any]:
    each = table.whole("num_layers_per_pipeline_stage", 1, least=1)
    repeats = table.whole("num_pipeline_repeats", -1)
    if stages == 1:
        table.get("num_pipeline_microbatches")
        return {"num_stages": 1}
    if repeats < 1:
        repeats = max(1, layers // (stages * each))
    if repeats > 1:
        found.misread(
            "num_pipeline_repeats",
            f"{repeats}: all forward passes go first there; taken as interleaved 1F1B",
        )
    schedule = "gpipe" if repeats == 1 else "interleaved-1f1b"
    return {"num_stages": stages, "virtual_stages": repeats, "schedule": schedule}


def _recomputation(table: Asked, found: ImportedSettings, *, experts: bool) -> dict[str, Any]:
    policy = table.text("remat_policy", "full")
    if policy == "none":
        return {}
    offloaded = {"minimal_offloaded": "minimal", "qkv_proj_offloaded": "save_qkv_proj"}
    ops = POLICIES.get(offloaded.get(policy, policy))
    if policy in offloaded:
        found.misread(
            f"remat_policy {policy}", "what it offloads is taken to be kept on the device"
        )
    if ops is not None:
        kept = [op for op in ops if experts or op not in _OF_EXPERTS]
        return {"recomputation": "selective", "recomputed_ops": kept}
    if policy != "full":
        found.misread(f"remat_policy {policy}", "whole layers are taken to be recomputed")
    return {"recomputation": "full"}


def _numbers(table: Asked, found: ImportedSettings) -> dict[str, Any]:
    """Precision, attention, optimizer and dropout as fields of `Workload`."""
    low = table.text("dtype", "bfloat16")
    if low not in ("bfloat16", "float32", "float16"):
        raise table.error("dtype", "bfloat16, float16 or float32")
    precision = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}[low]
    quantized = table.text("quantization")
    if "fp8" in quantized:
        precision = "fp8"
    elif quantized:
        found.misread(f"quantization {quantized}", f"products are taken in {precision}")
    kernel = table.text("attention", "autoselected")
    fused = "flash" in kernel or kernel in ("autoselected", "vllm_rpa")
    optimizer = table.text("opt_type", "adamw")
    if optimizer not in OPTIMIZERS:
        found.misread(f"opt_type {optimizer}", "its state is taken to be that of adam")
    table.get("enable_dropout")
    return {
        "precision": precision,
        "attention": "flash" if fused else "eager",
        "optimizer": OPTIMIZERS.get(optimizer, "adamw"),
        "dropout": float(table.get("dropout_rate") or 0) > 0 and table.true("enable_dropout"),
    }


def _batches(table: Asked, degrees: dict[str, int], found: ImportedSettings, given: Given) -> None:
    """`per_device_batch_size` counts all devices, those of a replica too."""
    try:
        each = float(table.get("per_device_batch_size") or 12)
    except (TypeError, ValueError):
        raise table.error("per_device_batch_size", "a number") from None
    steps = table.whole("gradient_accumulation_steps", 1, least=1)
    devices = given.devices or found.devices or 1
    own = degrees["tensor"] * degrees["context"] * degrees["pipeline"]
    in_step = each * devices
    replicas = max(1, devices // own)
    if in_step < 1 or in_step != int(in_step) or int(in_step) % replicas:
        raise ParplanError(
            f"{table.where}: per_device_batch_size {each:g}: {in_step:g} sequences on {devices} "
            f"devices do not divide over {replicas} replicas"
        )
    stages = degrees["pipeline"]
    count = table.whole("num_pipeline_microbatches", -1) if stages > 1 else 1
    count = count if count > 0 else stages
    micro = int(in_step) // replicas
    if micro % count:
        raise ParplanError(f"{table.where}: {micro} sequences do not divide into {count} parts")
    found.plan["batch_per_device"] = given.micro_batch or micro // count
    found.global_batch = int(in_step) * steps
