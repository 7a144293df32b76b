"""The keys of a `config.json`, each with its type, and with the file in every message."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parplan.errors import ParplanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A table of such a file."""

    table: Mapping[str, Any]
    where: str
    """The file, and the path to the table in it."""

    def size(self, *names: str) -> int:
        """The positive integer of the first of `names` that is there.

        Raises `ParplanError` naming the first of them where none is.
        """
        for name in names:
            if self.table.get(name) is not None:
                return self._integer(name, least=1)
        also = f" (or {', '.join(map(repr, names[1:]))})" if names[1:] else ""
        raise ParplanError(f"{self.where}: missing key {names[0]!r}{also}")

    def size_or(self, name: str, default: int) -> int:
        """The same of one key, or `default` where it is missing or null."""
        return default if self.table.get(name) is None else self._integer(name, least=1)

    def count_or(self, name: str, default: int) -> int:
        """The same, where 0 is allowed."""
        return default if self.table.get(name) is None else self._integer(name, least=0)

    def optional(self, name: str, default: int | None) -> int | None:
        """A size, or None where the key is null, or `default` where it is missing."""
        if name not in self.table:
            return default
        return None if self.table[name] is None else self._integer(name, least=1)

    def flag(self, name: str, default: bool) -> bool:
        """True or false, or `default` where the key is missing or null."""
        value = self.table.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ParplanError(f"{self.where}: {name}: expected true or false, got {value!r}")
        return value

    def text(self, name: str) -> str:
        """A string; raises `ParplanError` where it is missing."""
        value = self.table.get(name)
        if value is None:
            raise ParplanError(f"{self.where}: missing key {name!r}")
        if not isinstance(value, str):
            raise ParplanError(f"{self.where}: {name}: expected a string, got {value!r}")
        return value

    def inner(self, name: str) -> "Keys":
        """The table `name`, empty where it is missing or null."""
        value = self.table.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise ParplanError(f"{self.where}: {name}: expected a table, got {value!r}")
        return Keys(table=value or {}, where=f"{self.where}: {name}")

    def only(self, name: str, default: Any, allowed: Any) -> None:
        """Raise `ParplanError` unless the key, or `default` for it, is the one that is known."""
        value = self.table.get(name)
        value = default if value is None else value
        if value != allowed:
            raise ParplanError(f"{self.where}: {name}: {value!r} is not modelled, only {allowed!r}")

    def _integer(self, name: str, *, least: int) -> int:
        value = self.table[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ParplanError(
                f"{self.where}: {name}: expected an integer of at least {least}, got {value!r}"
            )
        return value
