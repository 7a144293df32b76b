"""Recipes of Megatron-Bridge and NeMo 2 as the tables that their YAML would have.

Names and defaults: `megatron/bridge/recipes/common.py` of August 2026;
`nemo/collections/llm/recipes` of September 2025.
"""

from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.keys.megatron_yaml_keys import SECTIONS_WITHOUT_EFFECT
from parplan.experiments.interop.python_files.python_values import Elsewhere, Made, NotKnown

Table = dict[str, Any]

_FINE_TUNING: Table = {
    "train": {"global_batch_size": 128, "micro_batch_size": 1},
    "dataset": {"seq_length": 2048},
    "ddp": {"grad_reduce_in_fp32": True},
    "optimizer": {"use_distributed_optimizer": True},
    "mixed_precision": "bf16_mixed",
}
_VISION: Table = {
    "train": {"global_batch_size": 32, "micro_batch_size": 2},
    "dataset": {"seq_length": 4096},
    "ddp": {"grad_reduce_in_fp32": True, "use_distributed_optimizer": True},
    "mixed_precision": "bf16_mixed",
}
BASES: dict[str, Table] = {
    "_pretrain_common": {
        "train": {"global_batch_size": 32, "micro_batch_size": 2},
        "dataset": {"seq_length": 4096},
        "ddp": {
            "grad_reduce_in_fp32": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
            "use_distributed_optimizer": True,
        },
        "mixed_precision": "bf16_mixed",
    },
    "_sft_common": _FINE_TUNING,
    "_peft_common": _FINE_TUNING | {"peft": {"dim": 32}},
    "_sft_common_vlm": _VISION,
    "_peft_common_vlm": _VISION | {"peft": {"dim": 32}},
}
"""What the functions that recipes begin with set, of what counts."""

OF_TRAINERS = {
    "tensor_parallelism": "tensor_model_parallel_size",
    "pipeline_parallelism": "pipeline_model_parallel_size",
    "virtual_pipeline_parallelism": "virtual_pipeline_model_parallel_size",
    "context_parallelism": "context_parallel_size",
    "sequence_parallelism": "sequence_parallel",
    "expert_parallelism": "expert_model_parallel_size",
}
"""Arguments of the functions of other files that make a trainer of NeMo 2."""

QUIET_CALLBACKS = ("TimingCallback", "GarbageCollectionCallback", "NsysCallback", "ModelCheckpoint")
OF_LAYOUT = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}


def class_of(value: Any) -> str:
    """The class that `run.Config(nl.Trainer, ...)` makes, or the function that was called."""
    if not isinstance(value, Made):
        return ""
    first = value.args[0] if value.args else None
    if value.name.endswith(("run.Config", "run.Partial")) and isinstance(first, Elsewhere):
        return first.name.rpartition(".")[2]
    return value.kind


def plain(value: Any) -> Any:
    """Calls as tables of their arguments, and names without their modules."""
    if isinstance(value, Made):
        return {name: plain(inner) for name, inner in value.fields.items()}
    if isinstance(value, Elsewhere):
        return value.name.rpartition(".")[2]
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def bridge_table(config: Made, unknown: dict[str, str]) -> Table:
    """The sections of a `ConfigContainer`; what is not known goes to `unknown`."""
    base = BASES.get(config.kind)
    if base is None and config.kind != "ConfigContainer":
        unknown[config.name] = "what it sets beside is in another file; defaults are taken"
    table: Table = {}
    # Numbers of mixed precision go before those of the reduction.
    names = ["mixed_precision", *[name for name in config.fields if name != "mixed_precision"]]
    for name in [*names, *(base or {})]:
        value = config.fields.get(name)
        usual = (base or {}).get(name)
        if name == "mixed_precision":
            _precision(value if name in config.fields else usual, table, unknown)
        elif isinstance(value, NotKnown):
            unknown[name] = f"{value!r} is not known"
        elif isinstance(value, Made) or isinstance(usual, dict):
            own = plain(value) if isinstance(value, Made) else {}
            table[name] = {**(usual if isinstance(usual, dict) else {}), **own}
    table.pop("model", None)
    model = plain(config.fields.get("model"))
    table["model"] = model if isinstance(model, dict) else {}
    table["model"].setdefault("seq_length", table.get("dataset", {}).get("seq_length"))
    return _cleaned(table, unknown)


def nemo_table(recipe: Made, unknown: dict[str, str]) -> Table:
    """The sections of a `run.Partial` of NeMo 2."""
    fields = recipe.fields
    table: Table = {"model": {}}
    if recipe.kind == "default_finetune_recipe":
        table["trainer"] = {"devices": 8, "num_nodes": 1}
        table["train"] = dict(_FINE_TUNING["train"])
        table["model"]["seq_length"] = _FINE_TUNING["dataset"]["seq_length"]
        table["ddp"] = dict(_FINE_TUNING["ddp"])
        table["optimizer"] = dict(_FINE_TUNING["optimizer"])
        _precision("bf16_mixed", table, unknown)
    elif recipe.kind != "Partial":
        unknown[recipe.name] = "what it sets beside is in another file; defaults are taken"
    model = fields.get("model")
    config = model.fields.get("config") if isinstance(model, Made) else None
    table["model"] |= plain(config) if isinstance(config, Made) else {}
    _trainer(fields.get("trainer"), table, unknown)
    data = plain(fields.get("data"))
    if isinstance(data, dict):
        known = {n: data[n] for n in ("global_batch_size", "micro_batch_size") if n in data}
        table["train"] = {**table.get("train", {}), **known}
        if data.get("seq_length") is not None:
            table["model"]["seq_length"] = data["seq_length"]
    optimizer = fields.get("optim")
    if isinstance(optimizer, Made):
        own = plain(optimizer).get("config", {})
        fused = optimizer.kind == "distributed_fused_adam_with_cosine_annealing"
        usual = {"use_distributed_optimizer": True} if fused else {}
        usual = {**table.get("optimizer", {}), **usual}
        table["optimizer"] = {**usual, **(own if isinstance(own, dict) else {})}
    if isinstance(peft := fields.get("peft"), Made):
        table["peft"] = {"dim": 32, **plain(peft)}
    return _cleaned(table, unknown)


def _trainer(trainer: Any, table: Table, unknown: dict[str, str]) -> None:
    if not isinstance(trainer, Made):
        return
    fields = trainer.fields
    if class_of(trainer) != "Trainer" and trainer.name != "trainer":
        unknown[trainer.name] = "what it sets beside is in another file; defaults are taken"
        table["model"] |= {new: fields[old] for old, new in OF_TRAINERS.items() if old in fields}
        _precision(str(fields.get("precision", "bf16-mixed")), table, unknown)
        table["trainer"] = {
            "devices": fields.get("num_gpus_per_node", 8),
            "num_nodes": fields.get("num_nodes", 1),
        }
    strategy = fields.get("strategy")
    own = plain(strategy) if isinstance(strategy, Made) else {}
    ddp = own.pop("ddp", None)
    if isinstance(ddp, dict):
        table["ddp"] = {**table.get("ddp", {}), **ddp}
    for name in [name for name in own if name.startswith(("ckpt_", "save_ckpt", "progress"))]:
        del own[name]
    table["model"] |= own
    said = {n: fields[n] for n in ("devices", "num_nodes") if isinstance(fields.get(n), int)}
    table["trainer"] = {**table.get("trainer", {}), **said}
    if "plugins" in fields:
        _precision(fields["plugins"], table, unknown)
    callbacks = fields.get("callbacks")
    for callback in callbacks if isinstance(callbacks, list) else []:
        kind = class_of(callback)
        if kind == "MegatronCommOverlapCallback":
            table["comm_overlap"] = plain(callback)
        elif kind not in QUIET_CALLBACKS:
            unknown[f"callback {kind or callback!r}"] = "what it changes is not read"


def _precision(value: Any, table: Table, unknown: dict[str, str]) -> None:
    """The name of a mixed precision, and what is set in it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        table["mixed_precision"] = value
        return
    if not isinstance(value, Made):
        if value is not None:
            unknown["mixed_precision"] = f"{value!r} is not known"
        return
    name = next((arg for arg in value.args if isinstance(arg, str)), class_of(value))
    kinds = {"fp8_cs": "bf16_with_fp8", "fp8_ds": "bf16_with_fp8", "fp8_mx": "bf16_with_fp8"}
    name = kinds.get(name, {"nvfp4": "bf16_with_nvfp4", "bf16": "bf16_mixed"}.get(name, name))
    if name in ("MixedPrecisionConfig", "MegatronMixedPrecision"):
        own = plain(value)
        narrow = next((kind for kind in ("fp8", "fp4") if own.get(kind)), "")
        said = str(own.get("precision", "16-mixed" if own.get("fp16") else "bf16-mixed"))
        low = "fp16" if said.startswith("16") else "bf16"
        name = f"{low}_with_{narrow}" if narrow else f"{low}_mixed"
    if name.startswith(("bf16", "fp16", "fp32", "16", "32")):
        table["mixed_precision"] = name
    elif "bf16" in name:
        table["mixed_precision"] = name[name.index("bf16") :]
    elif value.name != "plugins" and value.name != "mixed_precision":
        unknown[f"mixed precision {value.name}"] = "is not known; bf16 is taken"
        table["mixed_precision"] = "bf16_mixed"
    own = plain(value)
    if value.kind == "_perf_precision":
        own = {"grad_reduce_in_fp32": False, **own}
    if "grad_reduce_in_fp32" in own:
        table["precision_reduction"] = {"grad_reduce_in_fp32": own["grad_reduce_in_fp32"]}
    if own.get("fp8_param_gather", "_with_" in name and "fp8" in name and "subchannel" not in name):
        table["mixed precision"] = {"fp8_param_gather": True}


def _cleaned(table: Table, unknown: dict[str, str], path: str = "") -> Table:
    """Without values that are not known, and with layouts of pipelines as text."""
    found: Table = {}
    for name, value in table.items():
        if not path and name in SECTIONS_WITHOUT_EFFECT:
            found[name] = {}
        elif isinstance(value, dict):
            found[name] = _cleaned(value, unknown, f"{path}{name}.")
        elif isinstance(value, NotKnown):
            unknown[f"{path}{name}"] = f"{value!r} is not known"
        elif name == "pipeline_model_parallel_layout" and isinstance(value, list):
            found[name] = _layout(value)
        elif str(value) == "float32" and name.endswith("dtype"):
            continue
        else:
            found[name] = value
    return found


def _layout(stages: list[Any]) -> str:
    """`[["embedding", "decoder"], ...]` as `Et|...`; raises `ParplanError` for other names."""
    words = []
    for stage in stages:
        names = stage if isinstance(stage, list) else [stage]
        if any(name not in OF_LAYOUT for name in names):
            raise ParplanError(f"pipeline_model_parallel_layout: cannot be read: {stage!r:.60}")
        words.append("".join(OF_LAYOUT[name] for name in names))
    return "|".join(words)
