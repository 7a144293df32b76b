"""Settings of Megatron-LM, and their names in the configuration of Megatron-Bridge."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Value = bool | int | float | str | tuple[str, ...]


class MegatronSetting(NamedTuple):
    """One value under both names."""

    flag: str
    """`--tensor-model-parallel-size`; empty where Megatron-LM has none, or has it by default."""
    path: str
    """`model.tensor_model_parallel_size`; empty where Megatron-Bridge has none."""
    value: Value
    bridge_value: Value | None = None
    """Where it differs from that of Megatron-LM."""


def as_arguments(settings: Iterable[MegatronSetting]) -> list[str]:
    """The words of a command line, each flag with its values in one string."""
    words = []
    for setting in settings:
        if not setting.flag or setting.value is False:
            continue
        if setting.value is True:
            words.append(setting.flag)
        elif isinstance(setting.value, tuple):
            words.append(" ".join((setting.flag, *setting.value)))
        else:
            words.append(f"{setting.flag} {quoted(setting.value)}")
    return words


def quoted(value: Value) -> str:
    """A value as a shell takes it."""
    text = f"{value}"
    return f"'{text}'" if set(text) & set("|()[]*, ") else text


def as_tables(settings: Iterable[MegatronSetting]) -> dict[str, Any]:
    """The nested tables of Megatron-Bridge's configuration."""
    tables: dict[str, Any] = {}
    for setting in settings:
        if not setting.path:
            continue
        section, _, name = setting.path.rpartition(".")
        value = setting.value if setting.bridge_value is None else setting.bridge_value
        table = tables.setdefault(section, {}) if section else tables
        table[name] = value
    return tables


def as_yaml(tables: dict[str, Any], indent: int = 0) -> str:
    """Nested tables of scalars and lists as YAML."""
    lines = []
    for key, value in tables.items():
        if isinstance(value, dict):
            lines.append(f"{' ' * indent}{key}:")
            lines.append(as_yaml(value, indent + 2).rstrip("\n"))
        else:
            lines.append(f"{' ' * indent}{key}: {yaml_value(value)}")
    return "\n".join(lines) + "\n"


def yaml_value(value: Value | Sequence[str] | None) -> str:
    """A scalar or a list as YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = value.replace("_", "").replace("-", "").replace(".", "").isalnum()
        return value if plain and not value[0].isdigit() else f"'{value}'"
    if isinstance(value, int | float):
        # Without a point YAML reads a number with an exponent as text.
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    return "[" + ", ".join(yaml_value(item) for item in value) + "]"
