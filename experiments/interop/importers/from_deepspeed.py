"""What a DeepSpeed JSON asks for. Defaults are those of DeepSpeed 0.19.

The model, the length of sequences and what the program does (pipelines, recomputation) are not in
it.
"""

import json
from collections.abc import Mapping
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.sim.plan import zero_fields
from parplan.sim.software.habits import Software

BATCHES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")

ABOUT_NUMBERS = (
    "optimizer",
    "scheduler",
    "gradient_clipping",
    "steps_per_print",
    "wall_clock_breakdown",
)
"""Keys without bearing on the time of a step."""

NOT_MODELLED = {
    "offload_param": "parameters stay on the device",
    "zero_hpz_partition_size": "parameters are gathered from all replicas",
    "zero_quantized_weights": "parameters are gathered in 16 bits",
    "zero_quantized_gradients": "gradients are reduced in the dtype of gradient_dtype",
    "stage3_param_persistence_threshold": "all parameters are sharded",
    "stage3_max_live_parameters": "one block is gathered ahead",
    "stage3_prefetch_bucket_size": "one block is gathered ahead",
    "sub_group_size": "the optimizer steps at once",
}
"""Keys of `zero_optimization` that bear on it, and what is assumed instead."""


def from_deepspeed(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a DeepSpeed JSON."""
    try:
        table = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ParplanError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(table, Mapping):
        raise ParplanError(f"{where}: expected a table, got {type(table).__name__}")
    found = ImportedSettings()
    zero = table.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        raise ParplanError(f"{where}: zero_optimization: expected a table, got {zero!r}")
    _batches(table, found, given, where)
    found.plan |= _zero(zero, found, where)
    found.plan["tensor_parallel"] = _tensor_parallel(table, where)
    found.workload = _precision(table)
    # BF16_Optimizer, of ZeRO-0 and -1, keeps gradients in 16 bits beside those in fp32.
    beside = found.workload["precision"] == "bf16" and not found.plan["distribute_gradient"]
    found.workload["software"] = Software(
        fused_gradient_accumulation=False, low_precision_gradients=beside
    )
    if _on(table, "fp8"):
        found.note("fp8", "not known; give the precision that the products have")
    in_fp32 = "fp32" in (
        table.get("communication_data_type"),
        _section(table, "data_types").get("grad_accum_dtype"),
    )
    found.plan["gradient_dtype"] = "fp32" if in_fp32 else "as computed"
    found.note(
        "the program", "pipeline, recomputation and attention: --set num_stages=4 and the like"
    )
    known = (
        *BATCHES,
        *ABOUT_NUMBERS,
        "zero_optimization",
        "tensor_parallel",
        "bf16",
        "fp16",
        "fp8",
    )
    rest = [key for key in table if key not in (*known, "communication_data_type", "data_types")]
    if rest:
        found.note(" ".join(rest), "taken to have no bearing on the time of a step")
    return found


def _batches(table: Mapping[str, Any], found: ImportedSettings, given: Given, where: str) -> None:
    """Two of the three, or what is given, or one: as DeepSpeed completes them."""
    total, micro, steps = (_number(table, key, where) for key in BATCHES)
    micro = given.micro_batch or micro
    total = given.global_batch or total
    if micro is None and total is not None and steps is not None and given.devices:
        micro = total // steps // given.devices
    found.plan["batch_per_device"] = micro or 1
    if total is None and given.devices is not None:
        ranks = given.devices // _tensor_parallel(table, where)
        total = (micro or 1) * (steps or 1) * ranks
    found.global_batch = total


def _number(table: Mapping[str, Any], key: str, where: str) -> int | None:
    value = table.get(key)
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParplanError(f"{where}: {key}: expected a positive number, got {value!r}")
    return value


def _tensor_parallel(table: Mapping[str, Any], where: str) -> int:
    return _number(_section(table, "tensor_parallel"), "autotp_size", where) or 1


def _zero(zero: Mapping[str, Any], found: ImportedSettings, where: str) -> dict[str, Any]:
    stage = zero.get("stage", 0)
    if stage not in range(4):
        raise ParplanError(f"{where}: zero_optimization.stage: 0 to 3, got {stage!r}")
    device = _section(zero, "offload_optimizer").get("device", "none")
    if device == "nvme":
        found.note("offload_optimizer nvme", "taken to be the host's memory")
    for key in zero:
        if key in NOT_MODELLED and zero[key] not in (None, False, 0, "auto"):
            found.note(f"zero_optimization.{key}", NOT_MODELLED[key])
    shard = zero.get("mics_shard_size", -1)
    overlap = zero.get("overlap_comm")
    fields: dict[str, Any] = dict(zero_fields(stage))
    fields["overlap_gradient_reduction"] = (
        stage == 3 if overlap in (None, "auto") else bool(overlap)
    )
    fields["offload_optimizer"] = device in ("cpu", "nvme")
    if isinstance(shard, int) and shard > 0:
        fields["shard_group"] = shard
    return fields


def _precision(table: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("bf16", "fp16"):
        if _on(table, name):
            return {"precision": name}
    return {"precision": "fp32"}


def _on(table: Mapping[str, Any], name: str) -> bool:
    return _section(table, name).get("enabled") in (True, "auto")


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = table.get(name)
    return section if isinstance(section, Mapping) else {}
