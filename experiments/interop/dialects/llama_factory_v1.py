"""Configurations of LLaMA-Factory's second trainer (`llamafactory.v1`, 2026) in names of the first.

Names and defaults: `v1/config/*_args.py`, July 2026. What a plugin is told beside its name goes on
under that name with the section before it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parplan.errors import ParplanError

SECTIONS = ("dist_config", "peft_config", "kernel_config", "quant_config", "init_config")
PLAIN = {"model": "model_name_or_path", "micro_batch_size": "per_device_train_batch_size"}
ADAPTER = {"r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
OF_FSDP = ("reshard_after_forward", "offload_params")


def is_v1(values: Mapping[str, Any]) -> bool:
    """Whether the keys are those of the second trainer."""
    return "model" in values and any(name in values for name in (*SECTIONS, "model_class"))


def in_older_names(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same settings by the names of the first trainer.

    Raises `ParplanError` for a section that is no table.
    """
    table = {
        PLAIN.get(name, name): value
        for name, value in values.items()
        if name not in (*SECTIONS, "optim_config", "model_class", "cp_size", "cp_mode")
    }
    table |= {
        "cutoff_len": values.get("cutoff_len", 2048),
        "per_device_train_batch_size": values.get("micro_batch_size", 1),
        "bf16": values.get("bf16", True),
        "gradient_checkpointing": values.get("enable_activation_checkpointing", True),
        "context_parallel_size": values.get("cp_size", 1),
    }
    table.pop("enable_activation_checkpointing", None)
    named = f"{Path(where).name} {values.get('train_dataset')}".lower()
    if "dpo" in named or any(name.startswith("dpo_") for name in values):
        table["stage"] = "dpo"
    if values.get("model_class") not in (None, "llm"):
        table["model_class"] = values["model_class"]
    parts = {name: _section(values, name, where) for name in (*SECTIONS, "optim_config")}
    table |= _distributed(parts["dist_config"], where)
    table |= _adapters(parts["peft_config"])
    if parts["optim_config"]:
        table["optim"] = parts["optim_config"].get("name")
    for name in ("quant_config", "init_config"):
        if parts[name].get("name"):
            table["quantization" if name == "quant_config" else name] = parts[name]["name"]
    if parts["kernel_config"].get("name") not in (None, "auto"):
        table["use_kernels"] = parts["kernel_config"]["name"]
    return table


def _section(values: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    found = values.get(name)
    if found is not None and not isinstance(found, Mapping):
        raise ParplanError(f"{where}: {name}: expected a table, got {found!r:.60}")
    return dict(found or {})


def _distributed(section: dict[str, Any], where: str) -> dict[str, Any]:
    """The table of FSDP or DeepSpeed; raises `ParplanError` for a backend that is not known."""
    kind = section.pop("name", None)
    if kind is None:
        return {}
    if kind == "deepspeed":
        found: dict[str, Any] = {"deepspeed": section.pop("config_file", None)}
    elif kind in ("fsdp2", "fsdpturbo"):
        config = {"version": 2, "reshard_after_forward": True}
        config |= {name: section.pop(name) for name in OF_FSDP if name in section}
        found = {"fsdp": "full_shard auto_wrap", "fsdp_config": config}
    else:
        raise ParplanError(f"{where}: dist_config.name: fsdp2, fsdpturbo or deepspeed, got {kind}")
    if "ep_size" in section:
        found["expert_parallel_size"] = section.pop("ep_size")
    section.pop("dcp_path", None)
    return found | {f"dist_config.{name}": value for name, value in section.items()}


def _adapters(section: dict[str, Any]) -> dict[str, Any]:
    kind = section.pop("name", None)
    if kind is None:
        return {}
    return {"finetuning_type": kind} | {
        ADAPTER.get(name, f"peft_{name}"): value for name, value in section.items()
    }
