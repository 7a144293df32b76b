"""Configurations of trainers on Hugging Face Transformers.

Its TrainingArguments as YAML, JSON or the arguments of a script, TRL, LLaMA-Factory and Axolotl.
All have a model, a length, batches, precision, recomputation, adapters, and DeepSpeed or FSDP.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parplan._strict import parse_json
from parplan.errors import ParplanError
from parplan.experiments.interop.dialects.accelerate_launch import launcher_of_trl, take_launcher
from parplan.experiments.interop.dialects.hf_sharding import sharding
from parplan.experiments.interop.dialects.hub_models import hub_model
from parplan.experiments.interop.dialects.llama_factory_megatron import NO_EFFECT as MEGATRON
from parplan.experiments.interop.dialects.llama_factory_megatron import (
    is_for_megatron,
    megatron_part,
)
from parplan.experiments.interop.dialects.llama_factory_v1 import in_older_names, is_v1
from parplan.experiments.interop.importers.asked import Asked, refuse_other_format, report_rest
from parplan.experiments.interop.importers.from_accelerate import read_yaml
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.hf_keys import NO_EFFECT, NOT_MODELLED
from parplan.experiments.interop.shell.launch_text import Flags, processes, read_flags
from parplan.sim.models.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a trainer calls the settings that all have."""

    title: str
    model: tuple[str, ...] = ("model_name_or_path",)
    length: tuple[str, ...] = ()
    micro: tuple[str, ...] = ("per_device_train_batch_size", "per_gpu_train_batch_size")
    rank: tuple[str, ...] = ("lora_r",)
    packing: tuple[str, ...] = ("packing",)
    needs: tuple[str, ...] = ()
    """Names of which a file has at least one."""
    recomputes: bool = False
    """Whether blocks are recomputed unless a setting says otherwise."""
    usual_micro: int = 8
    in_bf16: bool = False
    """Whether `bf16` is `auto` where a file does not name it."""


TRANSFORMERS = Dialect(
    title="a Hugging Face trainer",
    length=(
        *("max_length", "max_seq_length", "model_max_length", "block_size", "max_source_length"),
        "max_seq_len",
    ),
    rank=("lora_r", "lora_dim"),
    needs=("per_device_train_batch_size", "gradient_accumulation_steps", "model_name_or_path"),
)
LLAMA_FACTORY = Dialect(
    title="LLaMA-Factory",
    length=("cutoff_len",),
    rank=("lora_rank",),
    packing=("packing", "neat_packing"),
    recomputes=True,
    needs=("finetuning_type", "cutoff_len", "template", "stage"),
)
AXOLOTL = Dialect(
    title="Axolotl",
    model=("base_model",),
    length=("sequence_len",),
    micro=("micro_batch_size",),
    packing=("sample_packing",),
    usual_micro=1,
    in_bf16=True,
    needs=("base_model",),
)

OTHERS = {
    "swift": "ms-swift: not known here",
    "xtuner": "XTuner: not known here",
    "tune": "torchtune: not known here",
    "axolotl": "Axolotl: import its YAML --from axolotl",
}
"""Commands whose flags look like those of a Hugging Face trainer, with defaults of their own."""

UNTRAINED = ("infer_backend", "export_dir", "do_predict")
"""Settings of what LLaMA-Factory does beside training."""

ATTENTION = {
    "eager": "eager",
    "sdpa": "flash-2",
    "flash_attention_2": "flash-2",
    "flash_attention_3": "flash",
    "fa2": "flash-2",
    "fa3": "flash",
    "auto": "flash-2",
    "disabled": "eager",
    "kernels-community/flash-attn2": "flash-2",
    "kernels-community/flash-attn3": "flash",
    "kernels-community/vllm-flash-attn3": "flash",
}

ADAM_8BIT = ("adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit")

ADAM = re.compile(r"adam[wW]?(_torch|_torch_fused|_hf|_apex_fused|_bnb_32bit|_anyprecision)?")


def from_transformers(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of TrainingArguments or a TRL configuration: YAML, JSON or a launch script."""
    return _imported(text, where, given, TRANSFORMERS)


def from_llama_factory(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a YAML of LLaMA-Factory."""
    return _imported(text, where, given, LLAMA_FACTORY)


def from_axolotl(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a YAML of Axolotl."""
    return _imported(text, where, given, AXOLOTL)


def _imported(text: str, where: str, given: Given, dialect: Dialect) -> ImportedSettings:
    values, flags = _table(text, where, given)
    if dialect is TRANSFORMERS and "finetuning_type" in values:
        raise ParplanError(f"{where}: a launch of LLaMA-Factory: --from llama-factory")
    if flags is not None and dialect is TRANSFORMERS and flags.command in OTHERS:
        raise ParplanError(f"{where}: a launch of {OTHERS[flags.command]}")
    second = dialect is LLAMA_FACTORY and is_v1(values)
    if second:
        values = in_older_names(values, where)
    elif dialect is LLAMA_FACTORY and "do_train" not in values and any(map(values.get, UNTRAINED)):
        raise ParplanError(f"{where}: it trains no model: do_train is not said")
    if flags is not None and flags.command == "trl":
        dialect = dataclasses.replace(dialect, title="TRL", recomputes=True)
        if not {"bf16", "fp16"} & set(values):
            values = {**values, "bf16": True}
    table = Asked(values, where)
    if not any(name in values for name in dialect.needs):
        raise ParplanError(
            f"{where}: not a configuration of {dialect.title}: it has none of "
            f"{', '.join(dialect.needs)}"
        )
    known = (*_READ, *dialect.model, *dialect.length, *dialect.micro, *NO_EFFECT, *NOT_MODELLED)
    refuse_other_format(table, known, f"a configuration of {dialect.title}")
    found = ImportedSettings(devices=None if flags is None else processes(flags))
    for line in () if flags is None else flags.notes:
        found.misread(*line.split(": ", 1))
    found.model = given.model or _model(table, dialect)
    for name in dialect.model:
        table.get(name)
    found.seq_len = _first(table, dialect.length)
    if found.seq_len is not None and not any(table.get(name) for name in dialect.packing):
        found.note("packing", "sequences are taken to be full")
    found.software = "hf-trainer"
    found.workload = {"attention": _attention(table, found)}
    found.workload |= _kernels(table, found)
    found.workload["optimizer"] = _optimizer(table, found)
    found.workload["lora_rank"] = _adapters(table, dialect, found)
    auto = _low_precision(table)
    if dialect.in_bf16 and not (auto["bf16"] or auto["fp16"]) and "bf16" not in values:
        auto["bf16"] = True
        found.note("bf16", f"not said: auto, {dialect.title}'s default, is bf16 on devices with it")
    found.workload["precision"] = "bf16" if auto["bf16"] else "fp16" if auto["fp16"] else "fp32"
    if table.true("tf32") and found.workload["precision"] == "fp32":
        found.workload["tf32"] = True
    if _switched(table, "pure_bf16"):
        found.misread("pure_bf16", "not modelled: masters and optimizer state are fp32")
    _stage(table, found)
    if second and "stage" not in values:
        found.note("the command", "sft is taken: the file does not say it")
    sharding(table, found, given, auto)
    if not any(table.get(name) for name in ("deepspeed", "fsdp", "fsdp_config")):
        if flags is not None and flags.command == "trl":
            take_launcher(launcher_of_trl(table), where, given, found, flags.files)
        elif flags is not None and "accelerate" in flags.starters:
            shown = {k: flags.unknowns.shown(word) for k, word in flags.launcher.items()}
            take_launcher(shown, where, given, found, flags.files)
        else:
            found.note("deepspeed, fsdp", "neither is said: weights are whole on every device")
    if (experts := table.whole("expert_parallel_size", 1, least=1)) > 1:
        found.plan["expert_parallel"] = experts
    _recomputation(table, dialect, found)
    of_megatron = dialect is LLAMA_FACTORY and is_for_megatron(table)
    if of_megatron:
        megatron_part(table, found)
    _batches(table, dialect, found, given)
    report_rest(found, table, NO_EFFECT | (MEGATRON if of_megatron else {}), NOT_MODELLED)
    return found


_READ = (
    *("bf16", "fp16", "tf32", "deepspeed", "fsdp", "fsdp_config", "gradient_checkpointing"),
    *("activation_checkpointing", "parallelism_config", "expert_parallel_size"),
    *("gradient_accumulation_steps", "finetuning_type", "stage", "adapter", "use_peft", "optim"),
    *("optimizer", "packing", "sample_packing", "flash_attn", "attn_implementation", "lora_rank"),
    *("lora_r", "pad_to_sequence_len", "flash_attention", "dp_shard_size", "tensor_parallel_size"),
    *("bfloat16", "float16", "fsdp_version", "neat_packing", "context_parallel_size"),
)


def _table(text: str, where: str, given: Given) -> tuple[Mapping[str, Any], Flags | None]:
    """The settings, and all of the launch where it is a script."""
    if where.endswith((".sh", ".slurm", ".sbatch", ".bash")) or text.startswith("#!"):
        flags = read_flags(text, where, given.variables)
        return _of_flags(flags), flags
    if where.endswith(".json"):
        table = parse_json(text, where)
        if not isinstance(table, Mapping):
            raise ParplanError(f"{where}: expected a table, got {type(table).__name__}")
        return table, None
    return read_yaml(text, where), None


def _of_flags(flags: Flags) -> dict[str, Any]:
    """`--a-b 1 --c` as a table, with `a_b` and `c`."""
    table: dict[str, Any] = {}
    for name, words in flags.words.items():
        for word in words[:1]:
            for unknown in flags.unknowns.within(word):
                a_file = "/" in word and name in ("--deepspeed", "--fsdp-config")
                if name.removeprefix("--").replace("-", "_") in _READ and not a_file:
                    raise ParplanError(f"{flags.where}: {name}: {unknown.why}")
        key = name.removeprefix("--").replace("-", "_")
        shown = [flags.unknowns.shown(word) for word in words]
        if name in ("--deepspeed", "--fsdp-config") and len(words) == 1:
            shown = [flags.files.get(words[0], shown[0]).strip()]
        table[key] = True if not shown else shown[0] if len(shown) == 1 else " ".join(shown)
    return table


def _first(table: Asked, names: tuple[str, ...]) -> int | None:
    found = [table.number(name, least=1) for name in names]
    return next((value for value in found if value is not None), None)


def _model(table: Asked, dialect: Dialect) -> Model:
    for name in dialect.model:
        if table.get(name):
            return hub_model(table.text(name), table.where)
    raise ParplanError(f"{table.where}: does not say the model; give --model")


def _attention(table: Asked, found: ImportedSettings) -> str:
    named = table.text("attn_implementation") or table.text("flash_attn")
    for old, kind in (("flash_attention", "flash_attention_2"), ("sdp_attention", "sdpa")):
        if _switched(table, old) and not named:
            named = kind
    if _switched(table, "eager_attention"):
        named = "eager"
    if named and named.lower() not in ATTENTION and named.lower() not in ("true", "false"):
        found.misread(f"attention {named}", "FlashAttention-2 is taken")
    return ATTENTION.get(named.lower(), "flash-2")


def _kernels(table: Asked, found: ImportedSettings) -> dict[str, bool]:
    """Models of Transformers are eager, unless other kernels are asked for."""
    names = ("use_liger_kernel", "enable_liger_kernel", "use_unsloth", "torch_compile")
    plugins = str(table.get("plugins") or "")
    fused = any([*(_switched(table, name) for name in names), "liger" in plugins.lower()])
    loss = fused or "cut_cross_entropy" in plugins or _switched(table, "cut_cross_entropy")
    if not fused:
        parts = (
            "normalisations and activations" if loss else "normalisations, activations and the loss"
        )
        found.note("kernels", f"{parts} are Transformers', unfused")
    return {"fused_norms": fused, "fused_elementwise": fused, "fused_loss": loss}


def _optimizer(table: Asked, found: ImportedSettings) -> str:
    name = table.text("optim") or table.text("optimizer") or "adamw_torch"
    if name in ("sgd", "adafactor"):
        if name == "adafactor":
            found.misread("optim adafactor", "its state is taken to be that of adam")
        return "sgd" if name == "sgd" else "adamw"
    if name in ADAM_8BIT:
        return "adamw-8bit"
    if not ADAM.fullmatch(name):
        found.misread(f"optim {name}", "its state is taken to be that of adam in fp32")
    return "adamw"


def _adapters(table: Asked, dialect: Dialect, found: ImportedSettings) -> int:
    """The rank of adapters, 0 where all weights are trained."""
    kind = table.text("finetuning_type") or table.text("adapter")
    rank = _first(table, dialect.rank)
    wanted = kind.lower() in ("lora", "qlora") or _switched(table, "use_peft")
    if _switched(table, "use_lora") or table.number("lora_dim"):
        wanted = True
    if kind.lower() not in ("", "lora", "qlora", "full"):
        found.misread(f"finetuning_type {kind}", "all weights are taken to be trained")
    if kind.lower() == "qlora":
        found.misread("adapter qlora", "not modelled: weights are not quantized")
    return (rank or 8) if wanted else 0


def _low_precision(table: Asked) -> dict[str, bool]:
    """Which of bf16 and fp16 is on; `auto` is bf16, which accelerators of today have."""
    said = {name: table.text(name).lower() for name in ("bf16", "fp16", "bfloat16", "float16")}
    full = "full" in said.values()
    bf16 = said["bf16"] in ("auto", "true", "1", "full") or said["bfloat16"] == "true"
    fp16 = said["fp16"] in ("true", "1", "full") or said["float16"] == "true"
    if _bare_deepspeed(table) and not bf16:
        # The programs of DeepSpeed's examples are in fp16 unless --dtype says otherwise.
        named = table.text("dtype", "fp16").lower()
        bf16, fp16 = named in ("bf16", "bfloat16"), named in ("fp16", "float16")
    bf16 = bf16 or _switched(table, "pure_bf16")
    return {"bf16": bf16, "fp16": fp16 and not bf16, "full": full}


def _bare_deepspeed(table: Asked) -> bool:
    """Whether `--deepspeed` stands without a file beside `--zero_stage`."""
    return table.get("deepspeed") in (True, "true", "True") and "zero_stage" in table


def _switched(table: Asked, name: str) -> bool:
    """Whether a setting is on; a name of a variant, such as `unsloth`, is on too."""
    value = table.get(name)
    return value not in (None, False, 0, "", "false", "False", "0", "no", "none")


def _recomputation(table: Asked, dialect: Dialect, found: ImportedSettings) -> None:
    # Transformers 5 has a new name, which goes first.
    names = ("activation_checkpointing", "gradient_checkpointing")
    given = [name for name in names if table.get(name) is not None]
    name = given[0] if given else names[-1]
    said = table.get(name) is not None
    on = _switched(table, name) or (dialect.recomputes and not said)
    if on and not _switched(table, "disable_gradient_checkpointing"):
        found.plan["recomputation"] = "full"
        if not said:
            found.note("gradient_checkpointing", f"is on by default in {dialect.title}")
    elif not said and dialect is TRANSFORMERS and "recomputation" not in found.plan:
        found.note(
            "gradient_checkpointing", "off, Transformers' default; TRL's SFTConfig has it on"
        )


def _stage(table: Asked, found: ImportedSettings) -> None:
    stage = table.text("stage", "sft")
    if stage not in ("sft", "pt"):
        found.misread(f"stage {stage}", "one model is trained on whole sequences")


def _batches(table: Asked, dialect: Dialect, found: ImportedSettings, given: Given) -> None:
    micro = given.micro_batch or _first(table, dialect.micro)
    steps = table.number("gradient_accumulation_steps", least=1)
    if micro is None:
        micro = dialect.usual_micro
        found.note(dialect.micro[0], f"{micro} is taken, the default; give --micro-batch")
    found.plan["batch_per_device"] = micro
    devices = given.devices or found.devices
    if devices is not None:
        names = ("tensor_parallel", "context_parallel", "num_stages")
        own = math.prod(found.plan.get(name, 1) for name in names)
        found.global_batch = micro * (steps or 1) * max(1, devices // own)
    total = table.number("global_batch_size", least=1)
    if total is not None and steps is None:
        found.global_batch = total
