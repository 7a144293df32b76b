"""Journals of finished rows for resuming interrupted work."""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from parplan import _journal
from parplan._files import write_whole
from parplan._strict import build, unknown_key
from parplan.errors import ParplanError, short
from parplan.hardware.network.cluster import Cluster
from parplan.sim.workload import Workload

Row = Mapping[str, Any]
T = TypeVar("T")


def fingerprint(workload: Workload, cluster: Cluster | None, **others: Any) -> dict[str, Any]:
    """Key of the work to which rows belong, as JSON gives it back."""
    table = {"workload": dataclasses.asdict(workload), **others}
    if cluster is not None:
        table["cluster"] = dataclasses.asdict(dataclasses.replace(cluster, measured=None))
    found: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return found


class RowJournal(Generic[T]):
    """Rows by their keys: those of an earlier run, and the ones that are added.

    `head`: what the rows are of. `make`: what a key and its row stand for; it raises `ParplanError`
    for what it is not. Raises `ParplanError` where the file holds rows of other work or lines that
    stand for nothing, is damaged, or is being written to (`parplan._journal`).
    """

    def __init__(self, path: Path, head: Row, make: Callable[[Row, Row], T]) -> None:
        try:
            self._kept = _journal.Journal(path, head)
        except ParplanError as error:
            raise ParplanError(f"{error}; --force begins anew, -o names another folder") from None
        self._path, self._head, self._make = path, head, make
        self.rows: dict[str, Row] = {}
        try:
            for number, row in enumerate(self._kept.rows, start=2):
                self._take(row, f"{path}: line {number}")
        except ParplanError:
            self._kept.close()
            raise

    def _take(self, row: Row, where: str) -> None:
        key, value = row.get("key"), row.get("row")
        if len(row) != 2 or not isinstance(key, dict) or not isinstance(value, dict):
            raise ParplanError(f"{where}: expected a key and its row")
        if _text(key) in self.rows:
            raise ParplanError(f"{where}: of a key that was there already: {short(key)}")
        try:
            self._make(key, value)
        except ParplanError as error:
            raise ParplanError(f"{where}: {error}") from None
        self.rows[_text(key)] = value

    def __enter__(self) -> "RowJournal[T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kept.close()

    def find(self, key: Row) -> Row | None:
        """The row of this key, if it is done."""
        return self.rows.get(_text(key))

    def add(self, key: Row, row: Row) -> Row:
        """Keep a row, on the disk as well; returns it as the disk gives it back."""
        kept: Row = self._kept.add({"key": dict(key), "row": dict(row)})["row"]
        self.rows[_text(key)] = kept
        return kept

    def row_of(self, key: Row) -> Row:
        """The row of this key, which is done."""
        return self.rows[_text(key)]

    def made(self, key: Row) -> T:
        """What the row of this key stands for."""
        return self._make(key, self.row_of(key))

    def put_in_order(self, keys: Sequence[Row]) -> None:
        """Leave the rows of these keys in this order, and close; in one step."""
        rows = [{"key": dict(key), "row": dict(self.row_of(key))} for key in keys]
        self._kept.close()
        if self._kept.rows != rows:
            write_whole(self._path, _journal.journal_bytes([self._head, *rows]))


def build_whole(kind: type[T], row: Row) -> T:
    """The dataclass of a row that has all of its fields: a default is not what was kept.

    Raises `ParplanError` as `parplan._strict.build` does.
    """
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in row:
            raise ParplanError(f"missing key {field.name!r}")
    return build(kind, row, kind.__name__.lower())


def check_amounts(values: Mapping[str, float | None], known: Collection[str] = ()) -> None:
    """Raise `ParplanError` for one below 0, or with a name that is not among those `known`."""
    for name, value in values.items():
        if value is not None and not value >= 0:
            raise ParplanError(f"{name}: must be at least 0, got {value}")
        if known and name not in known:
            raise ParplanError(unknown_key(name, known))


def _text(key: Row) -> str:
    return json.dumps(key, sort_keys=True)
