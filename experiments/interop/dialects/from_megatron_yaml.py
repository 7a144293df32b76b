"""Megatron's arguments in YAML.

Its own `model_config.yaml` and `--yaml-cfg`, overrides of Megatron-Bridge, and NeMo 1's
`megatron_gpt_config.yaml`. All become arguments by name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.dialects.bridge_recipe import with_recipe
from parplan.experiments.interop.importers.from_accelerate import read_yaml
from parplan.experiments.interop.importers.from_megatron import from_megatron, megatron_settings
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.megatron_yaml_keys import (
    NO_EFFECT,
    OFF,
    ON,
    RENAMED,
    SECTIONS_WITHOUT_EFFECT,
)
from parplan.experiments.interop.shell.launch_text import Flags

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
PRECISIONS = {
    **dict.fromkeys(("bf16", "bf16-mixed", "bf16_mixed"), ("--bf16",)),
    **dict.fromkeys(("16", "fp16", "16-mixed", "fp16_mixed"), ("--fp16",)),
    **dict.fromkeys(("32", "32-true", "fp32", "none"), ()),
}
"""`trainer.precision` and `mixed_precision`; a recipe of 8 or 4 bits has its name in it."""

GATED = ("swiglu", "fast-swiglu", "geglu", "fast-geglu", "reglu", "fast-reglu")


@dataclass(slots=True, kw_only=True)
class Arguments:
    """Arguments, and what each is called in the file."""

    words: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    no_effect: dict[str, str] = field(default_factory=dict)

    def add(self, flag: str, name: str, *words: str) -> None:
        """Add an argument with its values; the first of a name counts."""
        self.words.setdefault(flag, list(words))
        self.names.setdefault(flag, name)


def from_any_megatron(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a script, or of a YAML with arguments or `language_model`."""
    if not where.endswith((".yaml", ".yml")):
        return from_megatron(text, where, given)
    table = read_yaml(text, where)
    if isinstance(table.get("MODEL_ARGS"), Mapping):
        found = Arguments()
        for name, value in table["MODEL_ARGS"].items():
            _own(str(name), value, found)
        for name in table:
            if name != "MODEL_ARGS":
                found.no_effect[str(name)] = "how the test is run"
        path = Path(where)
        kind = "_".join(path.parts[-3:-1]) if path.name == "model_config.yaml" else ""
        return _settings(found, where, given, kind)
    if isinstance(table.get("language_model"), Mapping):
        return _settings(_arguments(table, table), where, given)
    raise ParplanError(
        f"{where}: not a configuration of Megatron-LM: it has no MODEL_ARGS and no language_model"
    )


def from_bridge(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of overrides of Megatron-Bridge, or of NeMo's YAML."""
    table = read_yaml(text, where)
    sections = ("model", "train", "ddp", "optimizer", "mixed_precision", "trainer")
    if not any(name in table for name in sections) or not isinstance(
        table.get("model", {}), Mapping
    ):
        raise ParplanError(
            f"{where}: not a configuration of Megatron-Bridge or NeMo: it has none of "
            f"{', '.join(sections)} as a section"
        )
    name = str(table.get("name") or "")
    if "trainer" in table:
        return _settings(_arguments(table, table), where, given, name)
    table, of_recipe = with_recipe(table)
    found = _of_tables(table)
    settings = _settings(found, where, given, name)
    for setting, taken in of_recipe.items():
        settings.misread(setting, f"the recipe's, which the file does not say; {taken} is taken")
    return settings


def reduced_as_mixed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, with gradients reduced as the named mixed precision says, which goes first.

    Megatron-Bridge and NeMo 2 write its numbers over those of `ddp`: fp32, unless it is fp16's.
    """
    name, ddp = table.get("mixed_precision"), table.get("ddp")
    own = {} if not isinstance(ddp, Mapping) else dict(ddp)
    said = table.get("precision_reduction")
    if isinstance(name, str):
        own["grad_reduce_in_fp32"] = not name.startswith("fp16")
    if isinstance(said, Mapping):
        own |= said
    rest = {key: value for key, value in table.items() if key != "precision_reduction"}
    return {**rest, "ddp": own} if own else rest


def settings_of_tables(table: Mapping[str, Any], where: str, given: Given) -> ImportedSettings:
    """The settings of sections as Megatron-Bridge has them, whose models have no dropout."""
    return _settings(_of_tables(table), where, given)


def _of_tables(table: Mapping[str, Any]) -> Arguments:
    table = reduced_as_mixed(table)
    found = _arguments(table, table)
    # The classes of Megatron-Bridge's models have no dropout.
    found.add("--attention-dropout", "model.attention_dropout", "0")
    found.add("--hidden-dropout", "model.hidden_dropout", "0")
    data = table.get("dataset")
    for key in ("sequence_length", "seq_length"):
        said = data.get(key) if isinstance(data, Mapping) else None
        length = _resolved(said, f"dataset.{key}", table)
        if isinstance(length, int):
            found.add("--seq-length", f"dataset.{key}", str(length))
    return found


def _settings(found: Arguments, where: str, given: Given, program: str = "") -> ImportedSettings:
    """The settings of arguments; `program` is what the configuration calls its kind of model."""
    flags = Flags(where=where, program=program)
    flags.words = found.words
    for name in ("--nproc-per-node", "--nnodes"):
        if name in found.words:
            flags.launcher[name] = found.words.pop(name)[0]
    settings = megatron_settings(flags, given)
    settings.no_effect = {
        found.names.get(name, name): why for name, why in settings.no_effect.items()
    } | found.no_effect
    settings.not_understood = {
        found.names.get(name, name): why for name, why in settings.not_understood.items()
    }
    settings.notes = [_named(note, found) for note in settings.notes]
    return settings


def _named(note: str, found: Arguments) -> str:
    """A note that begins with an argument, with the name that the file has for it."""
    flag = re.match(r"--[\w-]+", note)
    name = None if flag is None else found.names.get(flag[0])
    return note if flag is None or name is None else f"{name}{note[flag.end() :]}"


def _own(name: str, value: Any, found: Arguments) -> None:
    """`--num-layers: 12`, `--bf16: true`."""
    if value is False or value is None:
        return
    words = [] if value is True else [str(item) for item in _items(value)]
    found.add(name.replace("_", "-"), name, *words)


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split() if value.startswith("--") else [value]
    return value if isinstance(value, list) else [value]


def _arguments(table: Mapping[str, Any], root: Mapping[str, Any]) -> Arguments:
    found = Arguments()
    for name, value in _leaves(table, "", 0):
        _argument(name, _resolved(value, name, root), found)
    return found


def _leaves(table: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and depth < 4 and name not in SECTIONS_WITHOUT_EFFECT:
            yield from _leaves(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _resolved(value: Any, name: str, root: Mapping[str, Any]) -> Any:
    """`${model.encoder_seq_length}` and `${.num_layers}` as what they mean."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    path = match[1]
    full = f"{name.rpartition('.')[0]}{path}" if path.startswith(".") else path
    inner: Any = root
    for key in full.split("."):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return value if inner is None else inner


def _argument(name: str, value: Any, found: Arguments) -> None:
    """One setting as an argument, or without effect."""
    last = name.rpartition(".")[2]
    if _without_effect(name, last, value, found) or _special(name, last, value, found):
        return
    if last in OFF:
        if value is False:
            found.add(OFF[last], name)
        return
    if last in ON:
        if value is True:
            found.add(ON[last], name)
        return
    flag = RENAMED.get(last, f"--{last.replace('_', '-')}")
    if value is None or value is False or value == []:
        found.no_effect[name] = "not set"
    elif value is True:
        found.add(flag, name)
    elif isinstance(value, list):
        found.add(flag, name, *(str(item) for item in value))
    else:
        found.add(flag, name, str(value))


def _without_effect(name: str, last: str, value: Any, found: Arguments) -> bool:
    reason = SECTIONS_WITHOUT_EFFECT.get(name.partition(".")[0])
    reason = reason or SECTIONS_WITHOUT_EFFECT.get(name) or NO_EFFECT.get(last)
    if reason is None and name.count("."):
        reason = SECTIONS_WITHOUT_EFFECT.get(name.rpartition(".")[0])
    if reason is not None:
        found.no_effect[name] = reason
    return reason is not None


def _special(name: str, last: str, value: Any, found: Arguments) -> bool:
    """Settings whose value decides which arguments they are."""
    text = str(value).lower()
    if name in ("trainer.precision", "mixed_precision", "model.precision"):
        _precision(name, text, found)
    elif last in ("activation", "activation_func"):
        if text in GATED:
            found.add("--swiglu", name)
    elif last == "num_query_groups":
        if value is not None:
            found.add("--group-query-attention", name)
            found.add("--num-query-groups", name, text)
    elif name == "trainer.devices" and isinstance(value, int):
        found.add("--nproc-per-node", name, text)
    elif name == "trainer.num_nodes" and isinstance(value, int):
        found.add("--nnodes", name, text)
    elif last == "grad_reduce_in_fp32":
        found.add(
            "--accumulate-allreduce-grads-in-fp32" if value else "--grad-reduce-in-bf16", name
        )
    elif name in ("model.optim.name", "optim.name"):
        if text in ("distributed_fused_adam", "mcore_distributed_optim"):
            found.add("--use-distributed-optimizer", name)
        elif text not in ("adam", "adamw", "fused_adam", "megatron_fused_adam"):
            found.add("--optimizer", name, text)
    elif last == "attention_backend":
        found.add("--attention-backend", name, text.removeprefix("attnbackend."))
    elif last == "fp8" and name != "fp8":
        if value not in (None, False):
            found.add("--fp8-format", name, "hybrid" if value is True else text)
    elif last == "virtual_pipeline_model_parallel_size":
        if value is not None:
            found.add("--num-virtual-stages-per-pipeline-rank", name, text)
    else:
        return False
    return True


def _precision(name: str, text: str, found: Arguments) -> None:
    narrow = next((kind for kind in ("fp8", "fp4") if kind in text), None)
    plain = "bf16" if text.startswith("bf16") else "fp16" if text.startswith("fp16") else text
    if plain not in PRECISIONS:
        raise ParplanError(f"{name}: {text}: expected one of {', '.join(PRECISIONS)}")
    for flag in PRECISIONS[plain]:
        found.add(flag, name)
    if narrow is not None:
        found.add(f"--{narrow}-format", name, "hybrid")
