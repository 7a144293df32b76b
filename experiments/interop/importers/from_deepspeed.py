"""What a DeepSpeed JSON asks for. Defaults are those of DeepSpeed 0.19.

The model, the length of sequences and what the program does (pipelines, recomputation) are not in
it.
"""

import re
from collections.abc import Mapping
from typing import Any

from parplan._strict import parse_json
from parplan.errors import ParplanError
from parplan.experiments.interop.importers.asked import Asked, refuse_other_format, report_rest
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.deepspeed_keys import NO_EFFECT, NOT_MODELLED
from parplan.sim.plan import zero_fields
from parplan.sim.software.presets import habits_like

BATCHES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")

READ = (*BATCHES, "zero_optimization", "bf16", "bfloat16", "fp16", "optimizer", "tensor_parallel")
"""Names by which a file is told to be DeepSpeed's, beside those of its table of keys."""

MOST_TEXT = 1_000_000

_COMMENT = re.compile(r"^\s*(?://|#).*$")

OPTIMIZERS = {
    **dict.fromkeys(("adam", "adamw", "fusedadam", "deepspeedcpuadam", "cpuadam"), "adamw"),
    "sgd": "sgd",
    "muon": "muon",
}


def from_deepspeed(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a DeepSpeed JSON."""
    return deepspeed_settings(engine_table(text, where), where, given)


def engine_table(text: str, where: str) -> Mapping[str, Any]:
    """The table of a text that DeepSpeed reads: JSON, also with comments and commas at ends.

    Raises `ParplanError` for other text.
    """
    try:
        table = parse_json(text, where)
    except ParplanError:
        lines = [_COMMENT.sub("", line) for line in text[:MOST_TEXT].splitlines()]
        table = parse_json(re.sub(r",(\s*[}\]])", r"\1", "\n".join(lines)), where)
    if not isinstance(table, Mapping):
        raise ParplanError(f"{where}: expected a table, got {type(table).__name__}")
    return table


def deepspeed_settings(
    table: Mapping[str, Any], where: str, given: Given, auto: Mapping[str, bool] | None = None
) -> ImportedSettings:
    """The settings of DeepSpeed's table; `auto`: which of bf16 and fp16 an `auto` means."""
    asked = Asked(table, where)
    refuse_other_format(asked, (*READ, *NO_EFFECT, *NOT_MODELLED), "a configuration of DeepSpeed")
    found = ImportedSettings()
    _batches(asked, found, given)
    found.plan |= zero_plan(asked.section("zero_optimization"), found)
    found.plan["tensor_parallel"] = tensor = _tensor_parallel(asked)
    overlap = asked.section("tensor_parallel").true("tp_overlap_comm")
    found.plan["overlap_tensor_parallel"] = overlap and tensor > 1
    found.workload = {"precision": precision_of(asked, found, auto or {})}
    found.workload["optimizer"] = optimizer_of(asked.section("optimizer"), found)
    # BF16_Optimizer, of ZeRO-0 and -1, keeps gradients in 16 bits beside those in fp32.
    beside = found.workload["precision"] == "bf16" and not found.plan["distribute_gradient"]
    found.software = "deepspeed"
    found.workload["software"] = habits_like(found.software, low_precision_gradients=beside)
    in_fp32 = "fp32" in (
        asked.get("communication_data_type"),
        asked.section("data_types").get("grad_accum_dtype"),
    )
    found.plan["gradient_dtype"] = "fp32" if in_fp32 else "as computed"
    found.note(
        "the program", "pipeline, recomputation and attention: --set num_stages=4 and the like"
    )
    report_rest(found, asked, NO_EFFECT, NOT_MODELLED)
    return found


def _batches(table: Asked, found: ImportedSettings, given: Given) -> None:
    """Two of the three, or what is given, or one: as DeepSpeed completes them."""
    total, micro, steps = (table.number(key, least=1) for key in BATCHES)
    micro = given.micro_batch or micro
    total = given.global_batch or total
    ranks = None if given.devices is None else max(1, given.devices // _tensor_parallel(table))
    if micro is None and total is not None and steps is not None and ranks is not None:
        if total % (steps * ranks):
            raise ParplanError(
                f"{table.where}: train_batch_size {total} does not divide over {ranks} "
                f"data-parallel ranks with gradient_accumulation_steps {steps}"
            )
        micro = total // steps // ranks
    elif None not in (micro, total, steps, ranks) and total != micro * steps * ranks:  # type: ignore[operator]
        found.misread(
            "gradient_accumulation_steps",
            f"{total} sequences are not {micro} x {steps} x {ranks} ranks, which DeepSpeed "
            "refuses; the steps follow from the batch",
        )
    if micro is None:
        found.note("train_micro_batch_size_per_gpu", "one is taken; give --micro-batch")
    found.plan["batch_per_device"] = micro or 1
    if total is None and ranks is not None:
        if steps is None:
            found.note("gradient_accumulation_steps", "one is taken; give --global-batch")
        total = (micro or 1) * (steps or 1) * ranks
    found.global_batch = total


def _tensor_parallel(table: Asked) -> int:
    return table.section("tensor_parallel").whole("autotp_size", 1, least=1) or 1


def zero_plan(zero: Asked, found: ImportedSettings) -> dict[str, Any]:
    """Fields of the plan by the section `zero_optimization`."""
    stage = zero.get("stage", 0)
    if stage == "auto" or isinstance(stage, bool) or stage not in range(4):
        raise ParplanError(f"{zero.where}: zero_optimization.stage: 0 to 3, got {stage!r}")
    offload = zero.section("offload_optimizer")
    device = offload.text("device", "none")
    if device not in ("none", "cpu", "nvme"):
        raise offload.error("device", "cpu, nvme or none")
    if device == "nvme":
        found.misread("zero_optimization.offload_optimizer.device", "nvme: the host's memory taken")
    shard = zero.whole("mics_shard_size", -1)
    overlap = zero.get("overlap_comm")
    fields: dict[str, Any] = dict(zero_fields(int(stage)))
    fields["overlap_gradient_reduction"] = (
        stage == 3 if overlap in (None, "auto") else zero.true("overlap_comm")
    )
    fields["offload_optimizer"] = device in ("cpu", "nvme") or zero.true("cpu_offload")
    if shard > 0:
        fields["shard_group"] = shard
    return fields


def optimizer_of(table: Asked, found: ImportedSettings) -> str:
    """The optimizer by the section `optimizer`."""
    name = table.text("type", "AdamW")
    table.get("params")
    found.no_effect["optimizer.params"] = "numbers of the optimizer"
    if not table:
        del found.no_effect["optimizer.params"]
        found.note("the optimizer", "is the program's; adamw is taken")
    kind = OPTIMIZERS.get(name.lower().replace("torch_", ""))
    if kind is None:
        found.misread(f"optimizer.type {name}", "its state is taken to be that of adam")
    return kind or "adamw"


def precision_of(table: Asked, found: ImportedSettings, auto: Mapping[str, bool]) -> str:
    """The precision by the sections `bf16` and `fp16`."""
    on: dict[str, bool] = {}
    for name, key in (("bf16", "bf16"), ("bf16", "bfloat16"), ("fp16", "fp16")):
        section = table.section(key)
        value = section.get("enabled")
        if value == "auto":
            on[name] = on.get(name, False) or auto.get(name, not auto)
        else:
            on[name] = on.get(name, False) or section.true("enabled")
    names = ("bf16", "bfloat16", "fp16")
    undecided = [name for name in names if table.section(name).get("enabled") == "auto"]
    precision = "bf16" if on["bf16"] else "fp16" if on["fp16"] else "fp32"
    if not auto and undecided == ["bf16", "fp16"]:
        found.misread("bf16.enabled auto", "as is fp16's; bf16 is taken")
    elif not auto and undecided and not any(table.section(n).get("enabled") is True for n in names):
        found.misread(
            f"{undecided[0]}.enabled auto", f"the trainer decides it; {precision} is taken"
        )
    return precision
