"""What a recipe of Megatron-Bridge or NeMo 2 asks for, read from its syntax tree."""

import ast
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from parplan._strict import parse_json
from parplan.errors import ParplanError
from parplan.experiments.interop.dialects.from_megatron_yaml import settings_of_tables
from parplan.experiments.interop.dialects.hub_models import STATE_SPACE, hub_model, preset_of
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.python_files.python_config import (
    CHOICE,
    PythonFile,
    called,
    chosen_function,
    read_python,
)
from parplan.experiments.interop.python_files.python_values import Elsewhere, Made
from parplan.experiments.interop.python_files.recipes import bridge_table, nemo_table
from parplan.sim.models.model import Model, model_preset

_CLASS = re.compile(r"(\w+?)(?:ModelProvider|ModelConfig|Config|Provider)(\w*)")
_NO_NAMES = ("run", "nemo_run", "config", "model")
_POINT = re.compile(r"(llama|qwen|phi)(\d)(\d)(?=[-_])", re.IGNORECASE)
_SMALL = re.compile(r"(\d)p(\d)b", re.IGNORECASE)


def from_recipe(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a recipe in Python."""
    file = read_python(text, where, followed=r"ConfigContainer|Partial")
    name = _chosen(file, given.variables.get(CHOICE))
    config = called(file, name, _arguments(file.functions[name], given.variables))
    if not isinstance(config, Made):
        raise ParplanError(f"{where}: {name} makes no configuration that can be followed")
    unknown: dict[str, str] = {}
    nemo = "run" in ast.unparse(file.functions[name].returns or ast.Constant(value=""))
    table = nemo_table(config, unknown) if nemo else bridge_table(config, unknown)
    model = given.model or _model(config, where)
    rank = table.pop("peft", {}).get("dim", 0)
    found = settings_of_tables(table, where, dataclasses.replace(given, model=model))
    if rank:
        found.workload["lora_rank"] = rank if isinstance(rank, int) else 32
    if found.devices is None and (count := re.search(r"_(\d{1,6})gpu_", name)):
        found.devices = int(count[1])
    for setting, what in unknown.items():
        found.misread(setting, what)
    for line in file.unread:
        found.misread(line, "not followed")
    return found


def _chosen(file: PythonFile, asked: str | None) -> str:
    """The function that makes the configuration."""
    names = [
        name
        for name, node in file.functions.items()
        if node.returns is not None
        and re.search(r"ConfigContainer|run\.Partial", ast.unparse(node.returns))
        and not any(argument.arg in ("recipe", "cfg") for argument in node.args.args)
    ]
    names = [name for name in names if not name.startswith("_")] or names
    missing = (
        "a recipe of Megatron-Bridge or NeMo 2: no function returns a ConfigContainer or a "
        "run.Partial"
    )
    return chosen_function(file, names, asked, (missing, "recipes"))


def _arguments(function: ast.FunctionDef, variables: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of the recipe that the user gives by `--set`, as JSON or text."""
    names = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    found: dict[str, Any] = {}
    for name, text in variables.items():
        if name in names:
            try:
                word = text.lower() if text in ("True", "False") else text
                found[name] = parse_json(word, name)
            except ParplanError:
                found[name] = text
    return found


def _model(config: Made, where: str) -> Model:
    """The model by its name on the hub, or by the name of its class or of its module.

    Raises `ParplanError` for one that is not known here.
    """
    made = [arg for arg in config.args if isinstance(arg, Made)]
    parts: list[Any] = [*made] or [config.fields.get("model")]
    names = [name for part in parts for name in _names(part)]
    for name in names:
        if STATE_SPACE.search(name):
            raise ParplanError(f"{where}: {name}: not modelled: state-space layers")
        preset = preset_of(name)
        if preset is not None:
            return model_preset(preset)
    if not names:
        raise ParplanError(f"{where}: does not say the model; give --model")
    return hub_model(names[0], where)


def _names(value: Any) -> list[str]:
    """What a model may be called, the surest first."""
    if isinstance(value, str):
        return [value, _readable(value)]
    if isinstance(value, Elsewhere):
        last = value.name.rpartition(".")[2]
        match = _CLASS.fullmatch(last)
        return [_readable(f"{match[1]}-{match[2]}".rstrip("-") if match else last)]
    if not isinstance(value, Made):
        return []
    inner = [value.fields.get(name) for name in ("config", "version", "hf_path", "name")]
    found = [name for part in inner for name in _names(part)]
    found += [name for arg in value.args for name in _names(arg)]
    parts = [part for part in value.name.split(".") if part.lower() not in _NO_NAMES]
    return found + [name for part in reversed(parts) for name in _names(Elsewhere(part))]


def _readable(name: str) -> str:
    """`Llama31-8B`, `qwen25_1p5b`, `Qwen3-600M` as presets are called."""
    name = _SMALL.sub(r"\1.\2b", _POINT.sub(r"\1\2.\3", name))
    name = re.sub(r"(?i)([-_])([56])00m$", r"\g<1>0.\g<2>b", name)
    return re.sub(r"(?i)^gpt-(?=\d)", "gpt3-", name)
