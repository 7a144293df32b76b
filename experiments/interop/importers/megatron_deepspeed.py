"""The stage of ZeRO of a launch of Megatron-DeepSpeed, which DeepSpeed's own JSON decides."""

import re

from parplan._strict import parse_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.interop.beside import beside
from parplan.experiments.interop.importers.imported import ImportedSettings
from parplan.experiments.interop.shell.launch_text import Flags

_STAGE = re.compile(r'"stage"\s*:\s*"?([0-3])\b')

NOT_MODELLED = {
    "curriculum_learning": "every step has whole sequences",
    "data_efficiency": "every step has whole sequences",
    "progressive_layer_drop": "every token meets all layers",
}
"""Sections that may be switched on, and what is assumed instead."""


def stage_of_deepspeed(flags: Flags, asked: int | None, found: ImportedSettings) -> int:
    """The stage by `--deepspeed-config`, where it can be read, else by `--zero-stage`.

    The JSON is written by the script, as a here-document, or lies beside it. Raises `ParplanError`
    for two different stages.
    """
    words = flags.words.get("--deepspeed-config", [])
    flags.has("--deepspeed-config")
    text = _text(words[0], flags) if words else None
    stage = None if text is None else _stage(text)
    if text is not None:
        _beside_the_stage(text, flags, found)
    if stage is None:
        if asked is None:
            found.misread("--deepspeed-config", "its file is not here; no ZeRO is taken")
        elif words:
            found.misread(
                "--deepspeed-config", f"its file is not here; --zero-stage {asked} is taken"
            )
        return asked or 0
    if asked is not None and asked != stage:
        raise ParplanError(
            f"{flags.where}: --zero-stage {asked}, but {stage} in the file of --deepspeed-config"
        )
    return stage


def _beside_the_stage(text: str, flags: Flags, found: ImportedSettings) -> None:
    """What the file says of offloading and of a curriculum, as flags or as not understood."""
    if re.search(r'"cpu_offload"\s*:\s*true|"offload_optimizer"\s*:\s*{[^}]*"(cpu|nvme)"', text):
        flags.words.setdefault("--optimizer-cpu-offload", [])
    for name, assumed in NOT_MODELLED.items():
        if re.search(rf'"{name}"\s*:\s*{{\s*"enabled"\s*:\s*true', text):
            found.misread(f"--deepspeed-config {name}", f"not modelled: {assumed}")


def _text(name: str, flags: Flags) -> str | None:
    """The file that the script writes, or one beside it; its name may have unknown parts."""
    if name in flags.files:
        return flags.files[name]
    path = None if flags.unknowns.within(name) else beside(flags.where, name)
    return None if path is None else read_text(path)


def _stage(text: str) -> int | None:
    """`zero_optimization.stage`; of a template that is not yet JSON by its only `"stage"`."""
    try:
        table = parse_json(text, "")
    except ParplanError:
        found = {int(stage) for stage in _STAGE.findall(text)}
        return found.pop() if len(found) == 1 else None
    section = table.get("zero_optimization", {}) if isinstance(table, dict) else {}
    stage = section.get("stage", 0) if isinstance(section, dict) else None
    return stage if isinstance(stage, int) and stage in range(4) else None
