"""Tables of a configuration that remember what was asked of them, so that the rest can be told."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.imported import ImportedSettings
from parplan.experiments.interop.keys.effects import HARMLESS, NotModelled


class Asked(Mapping[str, Any]):
    """A table, the keys that were asked of it, and its sections by the same rule."""

    def __init__(self, table: Mapping[str, Any], where: str, path: str = "") -> None:
        self._table = table
        self.where = where
        self.path = path
        self.asked: set[str] = set()
        self.sections: dict[str, Asked] = {}

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self._table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return key in self._table

    def named(self, key: str) -> str:
        """A key with the sections that it is in."""
        return f"{self.path}{key}"

    def section(self, key: str) -> "Asked":
        """The table under a key, empty where there is none; `ParplanError` for another value."""
        if key not in self.sections:
            found = self.get(key)
            if found is not None and not isinstance(found, Mapping):
                raise ParplanError(
                    f"{self.where}: {self.named(key)}: expected a table, got {found!r}"
                )
            self.sections[key] = Asked(found or {}, self.where, f"{self.named(key)}.")
        return self.sections[key]

    def number(self, key: str, default: int | None = None, least: int | None = None) -> int | None:
        """A whole number, also one in quotes; the default where it is missing or `auto`.

        Raises `ParplanError` for another value, and for one below `least`.
        """
        value = self.get(key)
        if value is None or value == "auto":
            return default
        try:
            if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
                raise ValueError(value)
            found = int(value)
        except (TypeError, ValueError, OverflowError):
            raise self.error(key, "a whole number") from None
        if least is not None and found < least:
            raise self.error(key, "a positive number" if least == 1 else f"at least {least}")
        return found

    def whole(self, key: str, default: int, least: int | None = None) -> int:
        """The same, where there is a default."""
        found = self.number(key, default, least)
        return default if found is None else found

    def true(self, key: str, *, default: bool = False) -> bool:
        """A truth value, also as `"true"` or `"no"`; raises `ParplanError` for another value."""
        value = self.get(key)
        if value is None:
            return default
        word = str(value).strip().lower()
        if word not in ("true", "false", "yes", "no", "1", "0", "on", "off"):
            raise self.error(key, "true or false")
        return word in ("true", "yes", "1", "on")

    def text(self, key: str, default: str = "") -> str:
        """A text, or another scalar as text."""
        value = self.get(key)
        if isinstance(value, Mapping | list | tuple):
            raise self.error(key, "a name")
        return default if value is None else str(value)

    def names(self, key: str, default: tuple[str, ...] = ()) -> list[str]:
        """A list of names, also in one text with commas; raises `ParplanError` for another."""
        value = self.get(key)
        if value is None:
            return list(default)
        found = value.split(",") if isinstance(value, str) else value
        if not isinstance(found, list | tuple) or not all(isinstance(x, str) for x in found):
            raise self.error(key, "a list of names")
        return [name.strip() for name in found if name.strip()]

    def error(self, key: str, expected: str) -> ParplanError:
        """That a value is not what it has to be."""
        shown = repr(self._table.get(key))
        return ParplanError(
            f"{self.where}: {self.named(key)}: expected {expected}, got {shown:.60}"
        )

    def rest(self) -> Iterator[tuple[str, Any]]:
        """Every key that nobody asked for with its value; of sections, what is in them."""
        for key, value in self._table.items():
            if key in self.sections:
                yield from self.sections[key].rest()
            elif key not in self.asked:
                yield self.named(str(key)), value

    def read(self) -> Iterator[str]:
        """Every key that was asked for, in this table and its sections."""
        yield from (self.named(key) for key in self.asked)
        for section in self.sections.values():
            yield from section.read()


def report_rest(
    found: ImportedSettings,
    table: Asked,
    no_effect: Mapping[str, str],
    not_modelled: Mapping[str, NotModelled],
) -> None:
    """Say of every key that was not read what becomes of it.

    The names of `no_effect` and `not_modelled` have their sections before them; `checkpoint.*`
    means all of a section.
    """
    known = [*table.read(), *no_effect, *not_modelled]
    for name, value in _single(table.rest(), known):
        reason = no_effect.get(name) or _of_section(name, no_effect)
        bearing = not_modelled.get(name)
        if bearing is not None:
            unset = _off(value) and not (value is False and True in bearing.usual)
            if unset or _among(value, bearing.usual):
                found.no_effect[name] = "as is assumed"
            else:
                found.misread(name, f"not modelled: {bearing.assumed}")
        elif reason is not None:
            found.no_effect[name] = reason
        else:
            found.misread(name, f"not a setting that is known here{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a misspelt name, or nothing."""
    lowered = {other.lower(): other for other in known if "*" not in other}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.75)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def refuse_other_format(table: Asked, known: Iterable[str], what: str) -> None:
    """Raise `ParplanError` where fewer than half of the keys at the top are known.

    Configurations of other software share a name or two; those of this one have few others.
    """
    names = {name.partition(".")[0] for name in known}
    patterns = [name for name in names if "*" in name and name != "*"]
    given = [str(key) for key in table]
    ours = [key for key in given if key in names or _fits(key, patterns)]
    if 2 * len(ours) >= len(given) and ours:
        return
    others = [key for key in given if key not in ours]
    shown = ", ".join(others[:4]) + (" ..." if len(others) > 4 else "")
    many = "none" if not ours else f"only {len(ours)}"
    verb = "is" if len(ours) < 2 else "are"
    if not given:
        raise ParplanError(f"{table.where}: not {what}: it is empty")
    hint = "" if len(given) > 2 or len(others) != 1 else nearest(others[0], names)
    raise ParplanError(
        f"{table.where}: not {what}: {many} of its {len(given)} keys {verb} known there "
        f"({shown}){hint}"
    )


def _single(items: Iterable[tuple[str, Any]], known: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Single keys: sections are opened where keys in them are known."""
    prefixes = {name[: place.start()] for name in known for place in re.finditer(r"\.", name)}
    for name, value in items:
        if isinstance(value, Mapping) and value and name in prefixes:
            yield from _single(((f"{name}.{key}", inner) for key, inner in value.items()), known)
        else:
            yield name, value


def _of_section(name: str, reasons: Mapping[str, str]) -> str | None:
    """The reason of a pattern that a name is of, such as `checkpoint.*` and `logging_*`."""
    return next(
        (
            reason
            for pattern, reason in reasons.items()
            if "*" in pattern
            and (fnmatch.fnmatchcase(name, pattern) or name == pattern.removesuffix(".*"))
        ),
        None,
    )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _off(value: Any) -> bool:
    """Whether a setting is not set, or a section says that it is off."""
    if isinstance(value, Mapping):
        switches = [value[name] for name in ("enabled", "enable", "device") if name in value]
        return not value or (
            bool(switches) and all(_among(switch, HARMLESS) for switch in switches)
        )
    return _among(value, HARMLESS)


def _among(value: Any, values: Iterable[Any]) -> bool:
    """Whether a value is one of these; true is not 1, and texts are compared in lower case."""
    lowered = value.lower() if isinstance(value, str) else value
    return any(
        lowered == other and isinstance(lowered, bool) == isinstance(other, bool)
        for other in values
    )
