"""What a YAML of Accelerate asks for.

FSDP 1 and 2, DDP, or its sections for DeepSpeed and Megatron-LM. Names and defaults are those of
Accelerate 1.15.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from parplan._strict import read_text
from parplan.errors import ParplanError
from parplan.experiments.interop.beside import beside
from parplan.experiments.interop.importers.asked import Asked, refuse_other_format, report_rest
from parplan.experiments.interop.importers.from_deepspeed import deepspeed_settings, engine_table
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.accelerate_keys import NO_EFFECT, NOT_MODELLED, OF_SAGEMAKER
from parplan.sim.plan import zero_fields

STRATEGIES = {
    **{"FULL_SHARD": 3, "SHARD_GRAD_OP": 2, "NO_SHARD": 0, "HYBRID_SHARD": 3},
    **{"HYBRID_SHARD_ZERO2": 2, "1": 3, "2": 2, "3": 0, "4": 3, "5": 2},
}
"""`fsdp_sharding_strategy` of FSDP 1, by name or number, and the ZeRO stage that it is."""

READ = (
    *("distributed_type", "num_processes", "num_machines", "mixed_precision", "fsdp_config"),
    *("deepspeed_config", "megatron_lm_config", "parallelism_config", "tp_config"),
)
"""Names by which a file is told to be Accelerate's, beside those of its table of keys."""

REPLICATED = ("NO", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_HPU", "MULTI_MLU", "MULTI_MUSA")


def from_accelerate(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a YAML."""
    return accelerate_settings(read_yaml(text, where), where, given)


def accelerate_settings(values: Mapping[str, Any], where: str, given: Given) -> ImportedSettings:
    """The settings of its table, from wherever that was read."""
    table = Asked(values, where)
    refuse_other_format(table, (*READ, *NO_EFFECT, *NOT_MODELLED), "a configuration of Accelerate")
    if OF_SAGEMAKER in table:
        raise ParplanError(f"{where}: {OF_SAGEMAKER}: launches of SageMaker are not known")
    found = ImportedSettings(devices=table.number("num_processes", least=1))
    found.workload = {"precision": _precision(table)}
    found.software = _software(table.text("distributed_type", "NO"))
    found.plan["batch_per_device"] = given.micro_batch or 1
    kind = table.text("distributed_type", "NO")
    machines = table.whole("num_machines", 1, least=1)
    if kind == "FSDP":
        _fsdp(table.section("fsdp_config"), machines, found)
        _parallelism(table.section("parallelism_config"), found)
    elif kind == "DEEPSPEED":
        _deepspeed(table.section("deepspeed_config"), found, given)
        _parallelism(table.section("parallelism_config"), found)
    elif kind == "MEGATRON_LM":
        _megatron(table.section("megatron_lm_config"), found, given.devices or found.devices)
    elif kind in REPLICATED:
        _parallelism(table.section("parallelism_config"), found)
    else:
        raise ParplanError(
            f"{where}: distributed_type: {kind} is not known here; known: FSDP, DEEPSPEED, "
            f"MEGATRON_LM, {', '.join(REPLICATED)}"
        )
    _unused(table, kind, found)
    if given.micro_batch is None:
        found.note("the DataLoader", "micro-batches of 1 are taken; give --micro-batch")
    if given.global_batch is None and found.global_batch is None:
        found.note("gradient_accumulation_steps", "one is taken; give --global-batch")
    found.note("the program", "what it does itself: --set recomputation=full and the like")
    report_rest(found, table, NO_EFFECT, NOT_MODELLED)
    return found


def _software(kind: str) -> str:
    """The named software that trains, by the engine below Accelerate."""
    return {"MEGATRON_LM": "megatron", "DEEPSPEED": "deepspeed"}.get(kind, "accelerate")


def _unused(table: Asked, kind: str, found: ImportedSettings) -> None:
    """Sections of other kinds, which Accelerate leaves unread."""
    sections = {
        "fsdp_config": ("FSDP",),
        "deepspeed_config": ("DEEPSPEED",),
        "megatron_lm_config": ("MEGATRON_LM",),
        "parallelism_config": ("FSDP", "DEEPSPEED", *REPLICATED),
    }
    for name, kinds in sections.items():
        if table.get(name) and kind not in kinds:
            found.no_effect[name] = f"not read with distributed_type {kind}"


MOST_DEPTH = 1000
"""Brackets of a YAML text in each other; the time of reading grows with the square."""

MOST_NODES = 200_000
"""Values of a YAML text with its aliases written out; more are refused before they are made."""


def read_yaml(text: str, where: str) -> Mapping[str, Any]:
    """The table of a YAML text; raises `ParplanError` without PyYAML, and for other text."""
    try:
        import yaml
    except ImportError:
        raise ParplanError(f"{where}: reading YAML needs PyYAML: pip install pyyaml") from None
    if _depth(text) > MOST_DEPTH:
        raise ParplanError(f"{where}: not valid YAML: nested too deeply")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST_NODES:
            raise ParplanError(f"{where}: not read: more than {MOST_NODES} values")
        _check_keys(node, where)
        table = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise ParplanError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(table, Mapping):
        raise ParplanError(f"{where}: expected a table, got {type(table).__name__}")
    return table


def _depth(text: str) -> int:
    """The most brackets that are open at once, also of those that text in quotes holds."""
    steps = (1 if found in "[{" else -1 for found in re.findall(r"[][{}]", text))
    return max(itertools.accumulate(steps), default=0)


def _size(node: Any, known: dict[int, int]) -> int:
    """Values of a node of YAML's syntax tree, those behind aliases as often as they are named."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # of an alias to what it is in
        inner = node.value if isinstance(node.value, list) else []
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = min(1 + sum(_size(part, known) for part in parts), MOST_NODES + 1)
    return known[id(node)]


def _check_keys(top: Any, where: str) -> None:
    """Raise `ParplanError` for a key that is there twice; YAML takes the last one without a word.

    top: a node of YAML's syntax tree, without aliases to what they are in.
    """
    seen, left = set(), [top]
    while left:
        node = left.pop()
        if node is None or id(node) in seen or not isinstance(node.value, list):
            continue
        seen.add(id(node))
        names: set[str] = set()
        for item in node.value:
            left += item if isinstance(item, tuple) else (item,)
            name = item[0].value if isinstance(item, tuple) else None
            if isinstance(name, str) and name != "<<":
                if name in names:
                    line = item[0].start_mark.line + 1
                    raise ParplanError(f"{where}: line {line}: the key {name} is there twice")
                names.add(name)


def _precision(table: Asked) -> str:
    name = table.text("mixed_precision", "no")
    # YAML reads a bare `no` as false.
    known = {"no": "fp32", "False": "fp32", "None": "fp32"}
    if (found := known.get(name, name)) not in ("fp32", "bf16", "fp16", "fp8"):
        raise ParplanError(
            f"{table.where}: mixed_precision: {name} is not one of no, bf16, fp16, fp8"
        )
    return found


def _fsdp(section: Asked, machines: int, found: ImportedSettings) -> None:
    again = section.get("fsdp_reshard_after_forward")
    if section.text("fsdp_version", "1") == "2":
        if strategy := section.text("fsdp_sharding_strategy"):
            found.note(
                section.named("fsdp_sharding_strategy"),
                f"{strategy}: FSDP 2 goes by fsdp_reshard_after_forward alone",
            )
        stage = 3 if section.true("fsdp_reshard_after_forward", default=True) else 2
    else:
        # Accelerate 1.x writes the strategy of FSDP 1 under the name of FSDP 2's setting.
        named = str(again).upper() if isinstance(again, str) else ""
        named = named if named in STRATEGIES else "FULL_SHARD"
        strategy = section.text("fsdp_sharding_strategy", named).upper()
        if strategy not in STRATEGIES:
            raise section.error(
                "fsdp_sharding_strategy", ", ".join(name for name in STRATEGIES if len(name) > 1)
            )
        stage = STRATEGIES[strategy]
        if strategy in ("HYBRID_SHARD", "HYBRID_SHARD_ZERO2", "4", "5"):
            found.copies = machines
    found.plan |= {**zero_fields(stage), "overlap_parameter_gather": True}
    _units(section, stage, found)
    if section.true("fsdp_activation_checkpointing"):
        found.plan["recomputation"] = "full"
    if section.true("fsdp_offload_params"):
        found.plan["offload_optimizer"] = True
        found.misread(
            section.named("fsdp_offload_params"),
            "not modelled: parameters stay on the device, the optimizer alone is offloaded",
        )


def _units(section: Asked, stage: int, found: ImportedSettings) -> None:
    """What is gathered at once: a block, or with NO_WRAP the whole model."""
    policy = section.text("fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP").upper()
    if policy in ("NO_WRAP", "3") and stage == 3:
        found.plan |= zero_fields(2)
        found.plan["overlap_parameter_gather"] = False
        found.note(
            section.named("fsdp_auto_wrap_policy"),
            "NO_WRAP: the whole model is gathered at once and kept for the backward, as in ZeRO-2",
        )
    elif policy not in ("NO_WRAP", "3", "TRANSFORMER_BASED_WRAP", "1"):
        found.note(section.named("fsdp_auto_wrap_policy"), f"{policy}: units of a block are taken")


def _parallelism(section: Asked, found: ImportedSettings) -> None:
    prefix = "parallelism_config_"
    found.plan["tensor_parallel"] = section.whole(f"{prefix}tp_size", 1, least=1)
    context = section.whole(f"{prefix}cp_size", 1, least=1)
    split = section.whole(f"{prefix}sp_size", 1, least=1)
    section.get(f"{prefix}dp_shard_size")
    found.copies = section.number(f"{prefix}dp_replicate_size", least=1) or found.copies
    if split > 1:
        found.misread(
            section.named(f"{prefix}sp_size"),
            "not modelled: Ulysses; taken as context parallelism of the same degree",
        )
    found.plan["context_parallel"] = context * split


def _deepspeed(section: Asked, found: ImportedSettings, given: Given) -> None:
    devices = given.devices or found.devices
    if section.get("deepspeed_config_file"):
        _of_json(section, found, given)
        return
    stage = section.whole("zero_stage", 2, least=0)
    if stage > 3:
        raise section.error("zero_stage", "0 to 3")
    found.plan |= dict(zero_fields(stage))
    device = section.text("offload_optimizer_device", "none")
    found.plan["offload_optimizer"] = device in ("cpu", "nvme")
    steps = section.number("gradient_accumulation_steps", least=1)
    if steps and devices:
        found.global_batch = steps * devices * found.plan["batch_per_device"]


def _of_json(section: Asked, found: ImportedSettings, given: Given) -> None:
    """What DeepSpeed's own JSON says, where it lies beside the configuration."""
    name = section.text("deepspeed_config_file")
    path = beside(section.where, name)
    if path is None:
        raise ParplanError(
            f"{section.where}: {name} is not beside the file; put it there, or import it by itself "
            "with --from deepspeed"
        )
    table = engine_table(read_text(path), str(path))
    precision = found.workload["precision"]
    auto = {name: precision == name for name in ("bf16", "fp16")}
    inner = deepspeed_settings(table, str(path), given, auto)
    found.plan |= inner.plan
    found.global_batch = inner.global_batch
    found.workload |= inner.workload
    if inner.workload["precision"] == "fp32" and precision != "fp32":
        found.workload["precision"] = precision
    found.notes += [note for note in inner.notes if not note.startswith("the program")]
    found.no_effect |= {f"{name} of {path.name}": why for name, why in inner.no_effect.items()}
    found.not_understood |= inner.not_understood


def _megatron(section: Asked, found: ImportedSettings, devices: int | None) -> None:
    prefix = "megatron_lm_"
    tensor = section.whole(f"{prefix}tp_degree", 1, least=1)
    context = section.whole(f"{prefix}context_parallel_size", 1, least=1)
    found.plan |= {
        "tensor_parallel": tensor,
        "context_parallel": context,
        "expert_parallel": section.whole(f"{prefix}expert_model_parallel_size", 1, least=1),
        "expert_tensor_parallel": section.number(f"{prefix}expert_tensor_parallel_size", least=1),
        "num_stages": section.whole(f"{prefix}pp_degree", 1, least=1),
        "sequence_parallel": section.true(f"{prefix}sequence_parallelism") and tensor > 1,
        "distribute_param": section.true(f"{prefix}use_distributed_optimizer"),
        "offload_optimizer": section.true(f"{prefix}optimizer_cpu_offload"),
    }
    _recomputation(section, prefix, found)
    count = section.number(f"{prefix}num_micro_batches", least=1)
    if count and devices:
        own = tensor * found.plan["num_stages"] * context
        found.global_batch = count * (devices // own) * found.plan["batch_per_device"]


def _recomputation(section: Asked, prefix: str, found: ImportedSettings) -> None:
    kind = section.text(f"{prefix}recompute_granularity")
    method = section.text(f"{prefix}recompute_method")
    count = section.number(f"{prefix}recompute_num_layers", least=1)
    if kind == "full":
        found.plan["recomputation"] = "full"
        found.plan["recomputed_layers"] = count if method == "block" else None
    elif kind == "selective" or section.true(f"{prefix}recompute_activations"):
        found.plan["recomputation"] = "selective"
