"""What `accelerate launch` says of a trainer that it starts: a file, or flags of its own."""

from collections.abc import Mapping
from typing import Any

from parplan._strict import read_text
from parplan.experiments.interop.beside import beside
from parplan.experiments.interop.dialects.hf_sharding import NAMED
from parplan.experiments.interop.importers.asked import Asked
from parplan.experiments.interop.importers.from_accelerate import accelerate_settings, read_yaml
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.sim.plan import zero_fields

SECTIONS = {
    "fsdp_config": ("fsdp_",),
    "deepspeed_config": (
        *("zero_stage", "offload_", "zero3_", "deepspeed_config_file", "deepspeed_hostfile"),
        *("deepspeed_multinode_launcher", "deepspeed_moe_layer_cls_names"),
    ),
    "parallelism_config": ("parallelism_config_",),
    "megatron_lm_config": ("megatron_lm_",),
}
"""Sections of Accelerate's file, and how the flags begin that stand for what is in them."""

OF_KIND = {
    "use_fsdp": "FSDP",
    "use_deepspeed": "DEEPSPEED",
    "use_megatron_lm": "MEGATRON_LM",
    "multi_gpu": "MULTI_GPU",
}

OF_TRL = {
    **{f"zero{n}": {"--use-deepspeed": "", "--zero-stage": str(n)} for n in (1, 2, 3)},
    "fsdp1": {"--use-fsdp": "", "--fsdp-version": "1"},
    "fsdp2": {"--use-fsdp": "", "--fsdp-version": "2"},
    "multi_gpu": {"--multi-gpu": ""},
    "single_gpu": {},
}
"""Configurations that TRL brings, by name, as flags of `accelerate launch`."""

PLAIN = ("mixed_precision", "num_machines", "gradient_accumulation_steps")

IGNORED = ("the DataLoader", "the program", "gradient_accumulation_steps", "processes")
"""Notes of a configuration alone, which the trainer's own settings answer."""


def take_launcher(
    launcher: Mapping[str, str],
    where: str,
    given: Given,
    found: ImportedSettings,
    files: Mapping[str, str],
) -> None:
    """Set what `accelerate launch` decides, unless the trainer has a sharding of its own.

    launcher: its flags with their values. files: texts that the script writes, by name.
    """
    flags = {name.removeprefix("--").replace("-", "_"): word for name, word in launcher.items()}
    values: dict[str, Any] = {}
    name = flags.get("config_file")
    if name is not None and name in files:
        values = dict(read_yaml(files[name], f"{where}: {name}"))
    elif name is not None:
        path = beside(where, name)
        if path is None:
            _not_there(name, found)
        else:
            values, where = dict(read_yaml(read_text(path), str(path))), str(path)
    _over(values, flags)
    if not values:
        return
    values.setdefault("distributed_type", "MULTI_GPU")
    inner = accelerate_settings(values, where, given)
    found.plan |= {k: v for k, v in inner.plan.items() if k != "batch_per_device"}
    found.copies = inner.copies
    found.devices = found.devices or inner.devices
    if found.workload["precision"] == "fp32":
        found.workload["precision"] = inner.workload["precision"]
    if "software" in inner.workload:
        found.workload["software"] = inner.workload["software"]
    found.notes += [note for note in inner.notes if not note.startswith(IGNORED)]
    found.no_effect |= {f"accelerate {name}": why for name, why in inner.no_effect.items()}
    found.not_understood |= inner.not_understood


def launcher_of_trl(table: Asked) -> dict[str, str]:
    """What `trl sft` passes on to `accelerate launch`, as its flags."""
    found = {}
    if count := table.number("num_processes", least=1):
        found["--num-processes"] = str(count)
    name = table.text("accelerate_config")
    if name in OF_TRL:
        found |= OF_TRL[name]
    elif name:
        found["--config-file"] = name
    return found


def _over(values: dict[str, Any], flags: Mapping[str, str]) -> None:
    """Set what flags say over what the file says."""
    for name, kind in OF_KIND.items():
        if name in flags:
            values["distributed_type"] = kind
    for name, word in flags.items():
        if name in PLAIN:
            values[name] = word
        for section, begins in SECTIONS.items():
            if name.startswith(begins):
                values[section] = {**(values.get(section) or {}), name: word}


def _not_there(name: str, found: ImportedSettings) -> None:
    match = NAMED.search(name.rpartition("/")[2])
    if match is None:
        found.misread(
            f"accelerate --config_file {name}",
            "not beside the file; weights are taken to be whole on every device",
        )
        return
    found.plan |= dict(zero_fields(int(match[1])))
    found.misread(
        f"accelerate --config_file {name}",
        f"not beside the file; by its name it is ZeRO-{match[1]}",
    )
