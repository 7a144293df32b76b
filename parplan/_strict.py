"""Strict reading of TOML and JSON tables into dataclasses: a typo is an error, never a default."""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from parplan.errors import ParplanError

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 1024 * 1024


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises `ParplanError` naming the file when it can't be read."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ParplanError(f"{path}: not valid TOML: {error}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file; raises `ParplanError` naming the file when it can't be read."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ParplanError(f"{path}: not valid JSON: {error}") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; raises `ParplanError` naming it when it can't be read."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ParplanError(f"{path}: larger than the {MAX_FILE_BYTES} bytes that are read")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParplanError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ParplanError(f"{path}: not UTF-8 text") from None


def build(cls: type[T], table: object, where: str) -> T:
    """Make the dataclass `cls` from a table, checking every key and type.

    `where` (file and key path) begins each message. Raises `ParplanError` for an unknown or
    missing key, a wrong type, a number that is not finite, or whatever `cls` itself refuses.
    """
    if not isinstance(table, Mapping):
        raise ParplanError(f"{where}: expected a table, got {table!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ParplanError(f"{where}: unknown key {key!r}; known: {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ParplanError(f"{where}: missing key {name!r}")
    try:
        return cls(**values)
    except (ParplanError, ValueError) as error:
        raise ParplanError(f"{where}: {error}") from None


def _convert(hint: Any, value: object, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is tuple:
        (item,) = (a for a in typing.get_args(hint) if a is not Ellipsis)
        if not isinstance(value, list | tuple):
            raise ParplanError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            raise ParplanError(f"{where}: {value!r} is not one of {', '.join(map(str, allowed))}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(hint: Any, value: object, where: str) -> Any:
    members = typing.get_args(hint)
    if value is None and type(None) in members:
        return None
    (member,) = (m for m in members if m is not type(None))
    return _convert(member, value, where)


def _convert_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not _is_finite(value):
            raise ParplanError(f"{where}: expected a finite number, got {value!r}")
        return float(value)
    right_type = isinstance(hint, type) and isinstance(value, hint)
    if right_type and (hint is bool or not isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ParplanError(f"{where}: expected {name}, got {value!r}")


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # A whole number beyond every float.
        return False
