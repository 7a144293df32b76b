"""Strict reading of TOML and JSON tables into dataclasses: a typo is an error, never a default."""

import dataclasses
import difflib
import functools
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from parplan._checked import MOST_WHOLE, without_control
from parplan._files import MAX_FILE_BYTES, read_regular
from parplan.errors import ParplanError, short

T = TypeVar("T")

MAX_TOML_BYTES = 4 * 1024 * 1024
"""Of a TOML file, which takes much longer to read than other text."""

MAX_KEY_PARTS = 32
"""Of a dotted key; the time that reading one takes grows with the square of its parts."""

_NAME = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(
    rf"(?<![\w.-]){_NAME}(?:[ \t]*+\.[ \t]*+{_NAME}){{{MAX_KEY_PARTS},{MAX_KEY_PARTS}}}"
)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises `ParplanError` naming the file when it can't be read.

    The same text is parsed once, which takes far longer than copying its tables.
    """
    tables: dict[str, Any] = _copied(_parsed(read_text(path, MAX_TOML_BYTES), str(path)))
    return tables


@functools.lru_cache(maxsize=32)
def _parsed(text: str, where: str) -> dict[str, Any]:
    return parse_toml(text, where)


def _copied(value: Any) -> Any:
    """Tables and lists of their own; everything else that TOML has cannot be changed."""
    if isinstance(value, dict):
        return {key: _copied(own) for key, own in value.items()}
    return [_copied(own) for own in value] if isinstance(value, list) else value


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of TOML text; raises `ParplanError` beginning with `where` if it is none."""
    if _LONG_KEY.search(text):
        raise ParplanError(f"{where}: a dotted key of more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ParplanError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # Also whole numbers of thousands of digits.
        raise ParplanError(f"{where}: not valid TOML: {error}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file; raises `ParplanError` naming the file when it can't be read."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of JSON text; raises `ParplanError` beginning with `where` if it is none.

    Refuses what JSON does not have or leaves open: NaN and infinities, also by overflow, a key
    that is there twice, and whole numbers of thousands of digits.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_twins,
            parse_constant=_no_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise ParplanError(f"{where}: not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ParplanError(f"{where}: not valid JSON: {error}") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {short(key)} is there twice")
            seen.add(key)
    return table


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite_float(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{short(word)} is larger than every float")
    return value


def read_text(path: Path, most: int = MAX_FILE_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises `ParplanError` naming it when it can't be read.
    """
    try:
        return read_regular(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ParplanError(f"{path}: not UTF-8 text") from None


def unknown_key(key: object, known: Iterable[str]) -> str:
    """What is said of a key that is not known: the near ones, then all."""
    names = list(known)
    near = difflib.get_close_matches(str(key), names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown key {short(key)}; {hint}known: {', '.join(names)}"


def build(cls: type[T], table: object, where: str) -> T:
    """Make the dataclass `cls` from a table, checking every key and type.

    `where` (file and key path) begins each message. Raises `ParplanError` for an unknown or
    missing key, a wrong type, a number that is not finite, or whatever `cls` itself refuses.
    """
    if not isinstance(table, Mapping):
        raise ParplanError(f"{where}: expected a table, got {short(table)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ParplanError(f"{where}: {unknown_key(key, fields)}")
    hints = _hints(cls)  # type: ignore[arg-type]
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


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: object, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is tuple:
        (item,) = (a for a in typing.get_args(hint) if a is not Ellipsis)
        if not isinstance(value, list | tuple):
            raise ParplanError(f"{where}: expected a list, got {short(value)}")
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            raise ParplanError(
                f"{where}: {short(value)} is not one of {', '.join(map(str, allowed))}"
            )
        return value
    if origin in (dict, Mapping):
        return _convert_mapping(hint, value, where)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_mapping(hint: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ParplanError(f"{where}: expected a table, got {short(value)}")
    _, item = typing.get_args(hint)
    return {key: _convert(item, own, f"{where}.{key}") for key, own in value.items()}


def _convert_union(hint: Any, value: object, where: str) -> Any:
    members = typing.get_args(hint)
    if value is None and type(None) in members:
        return None
    others = [member for member in members if member is not type(None)]
    for member in others[:-1]:
        try:
            return _convert(member, value, where)
        except ParplanError:
            continue
    return _convert(others[-1], value, where)


def _convert_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not _is_finite(value):
            raise ParplanError(f"{where}: expected a finite number, got {short(value)}")
        return float(value)
    right_type = isinstance(hint, type) and isinstance(value, hint)
    if right_type and (hint is bool or not isinstance(value, bool)):
        _check_size(value, where)
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ParplanError(f"{where}: expected {name}, got {short(value)}")


def _check_size(value: object, where: str) -> None:
    """Raise `ParplanError` for a whole number beyond 64 bits, or text that a terminal obeys."""
    if isinstance(value, int) and not -MOST_WHOLE <= value <= MOST_WHOLE:
        raise ParplanError(f"{where}: at most {MOST_WHOLE}, got {short(value, 40)}")
    if isinstance(value, str):
        without_control(value, where)


def check_within(owner: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise `ParplanError` for a field of `owner` outside its least and most; None is outside none.

    A field that is a tuple is checked number by number.
    """
    for name, (least, most) in limits.items():
        value = getattr(owner, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and not least <= one <= most:
                limit = f"at least {least:g}" if one < least else f"at most {most:g}"
                raise ParplanError(f"{name}: must be {limit}, got {one:g}")


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # A whole number beyond every float.
        return False
