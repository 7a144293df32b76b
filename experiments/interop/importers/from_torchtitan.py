"""What a TOML of torchtitan (versions up to 0.2) asks for. Defaults are those of 0.2.2."""

import tomllib
from collections.abc import Mapping
from typing import Any

from parplan.errors import ParplanError, unknown_name
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.torchtitan_settings import FLAVORS, SCHEDULES
from parplan.sim.models.model import Model, model_preset
from parplan.sim.plan import zero_fields
from parplan.sim.software.habits import Software

SOFTWARE = Software(
    fused_gradient_accumulation=False, overlap_tensor_gradients=False, joint_up_projection=False
)
"""Liang et al. 2024, arXiv:2410.06511: FSDP2, torch's attention, compiled blocks."""

MOST_STAGES = 10_000

KEPT_BY_OP = ("attention norm", "mlp norm", "mlp activation", "experts activation")
"""What selective recomputation by operation computes again, of what is not a product."""


def from_torchtitan(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a TOML."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParplanError(f"{where}: not valid TOML: {error}") from None
    sections = {name: table for name, table in tables.items() if isinstance(table, Mapping)}
    found = ImportedSettings()
    found.model = given.model or _model(sections.get("model", {}), where)
    training, parallel = sections.get("training", {}), sections.get("parallelism", {})
    found.seq_len = _number(training, "seq_len", 2048, where)
    found.plan = _degrees(parallel, where)
    found.plan |= _pipeline(parallel, found, where)
    found.plan |= _sharding(parallel, found, given, where)
    again = sections.get("activation_checkpoint", {})
    found.plan |= _recomputation(again, found, found.model.num_layers)
    _batches(training, parallel, found, given, where)
    low = training.get("mixed_precision_param", "bfloat16") == "bfloat16"
    found.workload = {"precision": "bf16" if low else "fp32"}
    found.workload |= {"attention": "flash-2", "software": SOFTWARE}
    if training.get("enable_cpu_offload"):
        found.plan["offload_optimizer"] = True
        found.note("training.enable_cpu_offload", "the optimizer alone is taken to be offloaded")
    if "quantize.linear.float8" in str(sections.get("model", {}).get("converters", "")):
        found.workload["precision"] = "fp8"
    compiled = sections.get("compile", {})
    if not compiled.get("enable", False):
        found.workload |= {"fused_norms": False, "fused_elementwise": False, "fused_loss": False}
        found.note("compile.enable false", "normalisations, activations and the loss are unfused")
    elif "loss" not in str(compiled.get("components", "model, loss")):
        found.workload["fused_loss"] = False
    return found


def _model(section: Mapping[str, Any], where: str) -> Model:
    name, flavor = section.get("name", "llama3"), str(section.get("flavor", "debugmodel"))
    plain = flavor.removesuffix("_flex").removesuffix("_varlen")
    for preset, known in FLAVORS.items():
        if known == (name, plain):
            return model_preset(preset)
    known_names = [f"{family} {size}" for family, size in FLAVORS.values()]
    raise ParplanError(
        f"{where}: {unknown_name('flavor', f'{name} {flavor}', known_names)}; or give --model"
    )


def _number(table: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParplanError(f"{where}: {key}: expected a whole number, got {value!r}")
    return value


def _degrees(parallel: Mapping[str, Any], where: str) -> dict[str, Any]:
    tensor = _number(parallel, "tensor_parallel_degree", 1, where)
    own = _number(parallel, "expert_tensor_parallel_degree", tensor, where)
    return {
        "tensor_parallel": tensor,
        "sequence_parallel": tensor > 1 and bool(parallel.get("enable_sequence_parallel", True)),
        "context_parallel": _number(parallel, "context_parallel_degree", 1, where),
        "expert_parallel": _number(parallel, "expert_parallel_degree", 1, where),
        "expert_tensor_parallel": own if own != tensor else None,
        "overlap_tensor_parallel": bool(parallel.get("enable_async_tensor_parallel", False)),
    }


def _pipeline(parallel: Mapping[str, Any], found: ImportedSettings, where: str) -> dict[str, Any]:
    stages = _number(parallel, "pipeline_parallel_degree", 1, where)
    if not 1 <= stages <= MOST_STAGES:
        raise ParplanError(f"{where}: pipeline_parallel_degree: 1 to {MOST_STAGES}, got {stages}")
    if stages == 1:
        return {"num_stages": 1}
    names = {torch: name for name, torch in SCHEDULES.items()}
    given = str(parallel.get("pipeline_parallel_schedule", "1F1B"))
    csv = parallel.get("pipeline_parallel_schedule_csv")
    if csv:
        found.note(
            f"pipeline_parallel_schedule_csv {csv}", "play it with parplan simulate --schedule"
        )
    schedule = names.get(given) or ("1f1b" if csv else None)
    if schedule is None:
        raise ParplanError(f"{where}: {unknown_name('schedule', given, names)}")
    layers = _layers(parallel, found, stages, schedule, where)
    virtual = len(layers) // stages
    return {
        "num_stages": stages,
        "virtual_stages": virtual,
        "schedule": schedule,
        "stage_layers": layers,
    }


def _layers(
    parallel: Mapping[str, Any], found: ImportedSettings, stages: int, schedule: str, where: str
) -> list[int]:
    """Layers of every stage: by module names, or spread as torchtitan does."""
    parts = parallel.get("module_fqns_per_model_part")
    if parts:
        if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
            raise ParplanError(f"{where}: module_fqns_per_model_part: expected lists of names")
        if len(parts) % stages:
            raise ParplanError(f"{where}: {len(parts)} model parts for {stages} pipeline ranks")
        return [sum(str(name).startswith("layers.") for name in part) for part in parts]
    if found.model is None:
        raise AssertionError("the model is read first")
    ends = [
        _number(parallel, f"pipeline_parallel_{end}_stage_less_layers", 1, where)
        for end in ("first", "last")
    ]
    effective = found.model.num_layers + sum(ends)
    if stages > found.model.num_layers:
        raise ParplanError(
            f"{where}: pipeline_parallel_degree: at most {found.model.num_layers}, the layers; "
            f"got {stages}"
        )
    total = stages * (1 if schedule in ("1f1b", "gpipe") else 2)
    each = parallel.get("pipeline_parallel_layers_per_stage")
    if isinstance(each, int) and each > 0:
        total = -(-effective // each)
    least, rest = divmod(effective, total)
    layers = [least + (stage < rest) for stage in range(total)]
    layers[0] -= ends[0]
    layers[-1] -= ends[1]
    if min(layers) < 0 or total % stages:
        raise ParplanError(f"{where}: {found.model.num_layers} layers on {total} stages: {layers}")
    return layers


def _sharding(
    parallel: Mapping[str, Any], found: ImportedSettings, given: Given, where: str
) -> dict[str, Any]:
    shard = _number(parallel, "data_parallel_shard_degree", -1, where)
    copies = _number(parallel, "data_parallel_replicate_degree", 1, where)
    own = found.plan["tensor_parallel"] * found.plan["context_parallel"] * found.plan["num_stages"]
    if shard == -1 and given.devices is not None:
        shard = max(1, given.devices // (own * copies))
    if shard > 0:
        found.devices = own * shard * copies
    sharded = shard != 1 or found.plan["context_parallel"] > 1
    found.copies = copies if sharded else 1
    policy = parallel.get("fsdp_reshard_after_forward", "default")
    again = policy == "always" or (policy == "default" and found.plan["num_stages"] == 1)
    stage = (3 if again else 2) if sharded else 0
    return {
        **zero_fields(stage),
        "gradient_dtype": "fp32" if sharded else "as computed",
        "overlap_parameter_gather": sharded,
    }


def _recomputation(
    again: Mapping[str, Any], found: ImportedSettings, num_layers: int
) -> dict[str, Any]:
    mode, option = again.get("mode", "selective"), str(again.get("selective_ac_option", "2"))
    if mode == "none":
        return {}
    if mode == "full":
        return {"recomputation": "full"}
    if mode == "selective" and option.isdigit() and int(option) > 0:
        stages = found.plan["num_stages"] * found.plan.get("virtual_stages", 1)
        count = round(num_layers / stages / int(option))
        found.note(f"selective_ac_option {option}", f"{count} whole layers of every stage")
        return {"recomputation": "full", "recomputed_layers": count}
    found.note(
        f"activation_checkpoint {mode} {option}",
        "normalisations and activation functions are recomputed, products are kept",
    )
    return {"recomputation": "selective", "recomputed_ops": list(KEPT_BY_OP)}


def _batches(
    training: Mapping[str, Any],
    parallel: Mapping[str, Any],
    found: ImportedSettings,
    given: Given,
    where: str,
) -> None:
    """`batch_size` is what versions before 0.1 call `local_batch_size`."""
    local = _number(training, "local_batch_size", _number(training, "batch_size", 8, where), where)
    total = _number(training, "global_batch_size", -1, where)
    micro = local
    if found.plan["num_stages"] > 1:
        micro = _number(parallel, "pipeline_parallel_microbatch_size", 1, where)
    found.plan["batch_per_device"] = given.micro_batch or micro
    devices = given.devices or found.devices
    if total < 0 and devices is not None:
        own = found.plan["tensor_parallel"] * found.plan["context_parallel"]
        total = local * max(1, devices // (own * found.plan["num_stages"]))
    found.global_batch = total if total > 0 else None
