"""What a YAML of Accelerate asks for: FSDP 1 and 2, DDP, or its sections for DeepSpeed and
Megatron-LM. Names and defaults are those of Accelerate 1.15."""

from collections.abc import Mapping
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.sim.plan import zero_fields
from parplan.sim.software.habits import Software

STRATEGIES = {
    **{"FULL_SHARD": 3, "SHARD_GRAD_OP": 2, "NO_SHARD": 0, "HYBRID_SHARD": 3},
    **{"HYBRID_SHARD_ZERO2": 2, "1": 3, "2": 2, "3": 0, "4": 3, "5": 2},
}
"""`fsdp_sharding_strategy` of FSDP 1, by name or number, and the ZeRO stage that it is."""


def from_accelerate(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a YAML."""
    table = read_yaml(text, where)
    found = ImportedSettings(devices=_number(table, "num_processes", where))
    found.workload = {"precision": _precision(table, where)}
    found.workload["software"] = Software(
        fused_gradient_accumulation=False,
        overlap_tensor_gradients=False,
        joint_up_projection=False,
    )
    found.plan["batch_per_device"] = given.micro_batch or 1
    kind = str(table.get("distributed_type", "NO"))
    if kind == "FSDP":
        _fsdp(_section(table, "fsdp_config"), table, found)
        _parallelism(_section(table, "parallelism_config"), found, where)
    elif kind == "DEEPSPEED":
        _deepspeed(_section(table, "deepspeed_config"), found, where)
    elif kind == "MEGATRON_LM":
        _megatron(_section(table, "megatron_lm_config"), found, where)
    elif kind not in ("MULTI_GPU", "NO"):
        raise ParplanError(f"{where}: distributed_type: {kind} is not known here")
    if given.micro_batch is None:
        found.note("the DataLoader", "micro-batches of 1 are taken; give --micro-batch")
    if given.global_batch is None:
        found.note("gradient_accumulation_steps", "one is taken; give --global-batch")
    found.note("the program", "what it does itself: --set recomputation=full and the like")
    return found


def read_yaml(text: str, where: str) -> Mapping[str, Any]:
    """The table of a YAML text; raises `ParplanError` without PyYAML, and for other text."""
    try:
        import yaml
    except ImportError:
        raise ParplanError(f"{where}: reading YAML needs PyYAML: pip install pyyaml") from None
    try:
        table = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ParplanError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(table, Mapping):
        raise ParplanError(f"{where}: expected a table, got {type(table).__name__}")
    return table


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = table.get(name) or {}
    return section if isinstance(section, Mapping) else {}


def _number(table: Mapping[str, Any], key: str, where: str) -> int | None:
    value = table.get(key)
    if value is None or value == "auto":
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ParplanError(f"{where}: {key}: expected a whole number, got {value!r}") from None


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def _precision(table: Mapping[str, Any], where: str) -> str:
    name = str(table.get("mixed_precision", "no"))
    # YAML reads a bare `no` as false.
    known = {"no": "fp32", "False": "fp32", "None": "fp32"}
    if (found := known.get(name, name)) not in ("fp32", "bf16", "fp16", "fp8"):
        raise ParplanError(f"{where}: mixed_precision: {name} is not one of no, bf16, fp16, fp8")
    return found


def _fsdp(section: Mapping[str, Any], table: Mapping[str, Any], found: ImportedSettings) -> None:
    strategy = str(section.get("fsdp_sharding_strategy", "FULL_SHARD")).upper()
    stage = STRATEGIES.get(strategy, 3)
    if str(section.get("fsdp_version", 1)) == "2":
        stage = 3 if _true(section.get("fsdp_reshard_after_forward", True)) else 2
    elif strategy in ("HYBRID_SHARD", "HYBRID_SHARD_ZERO2", "4", "5"):
        found.copies = int(table.get("num_machines", 1))
    found.plan |= {**zero_fields(stage), "overlap_parameter_gather": True}
    if _true(section.get("fsdp_activation_checkpointing", False)):
        found.plan["recomputation"] = "full"
    if _true(section.get("fsdp_offload_params", False)):
        found.plan["offload_optimizer"] = True
        found.note("fsdp_offload_params", "the optimizer alone is taken to be offloaded")


def _parallelism(section: Mapping[str, Any], found: ImportedSettings, where: str) -> None:
    prefix = "parallelism_config_"
    tensor = _number(section, f"{prefix}tp_size", where) or 1
    found.plan["tensor_parallel"] = tensor
    found.plan["context_parallel"] = _number(section, f"{prefix}cp_size", where) or 1
    found.copies = _number(section, f"{prefix}dp_replicate_size", where) or found.copies
    if (_number(section, f"{prefix}sp_size", where) or 1) > 1:
        found.note(f"{prefix}sp_size", "Ulysses is not known; taken as data parallelism")


def _deepspeed(section: Mapping[str, Any], found: ImportedSettings, where: str) -> None:
    if "deepspeed_config_file" in section:
        raise ParplanError(f"{where}: import {section['deepspeed_config_file']} --from deepspeed")
    stage = _number(section, "zero_stage", where)
    found.plan |= dict(zero_fields(2 if stage is None else stage))
    found.plan["offload_optimizer"] = section.get("offload_optimizer_device") in ("cpu", "nvme")
    steps = _number(section, "gradient_accumulation_steps", where)
    if steps and found.devices:
        found.global_batch = steps * found.devices * found.plan["batch_per_device"]


def _megatron(section: Mapping[str, Any], found: ImportedSettings, where: str) -> None:
    prefix = "megatron_lm_"
    tensor = _number(section, f"{prefix}tp_degree", where) or 1
    found.plan |= {
        "tensor_parallel": tensor,
        "num_stages": _number(section, f"{prefix}pp_degree", where) or 1,
        "sequence_parallel": tensor > 1 and _true(section.get(f"{prefix}sequence_parallelism")),
        "distribute_param": _true(section.get(f"{prefix}use_distributed_optimizer")),
    }
    if _true(section.get(f"{prefix}recompute_activations")):
        found.plan["recomputation"] = "selective"
    count = _number(section, f"{prefix}num_micro_batches", where)
    if count and found.devices:
        own = tensor * found.plan["num_stages"]
        found.global_batch = count * found.devices // own * found.plan["batch_per_device"]
