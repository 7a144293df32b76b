"""Journals of finished rows for resuming interrupted work."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from parplan import _journal
from parplan._files import write_whole
from parplan._strict import build
from parplan.errors import ParplanError
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


class RowJournal:
    """Rows by their keys: those of an earlier run, and the ones that are added.

    `head`: what the rows are of. Raises `ParplanError` where the file holds rows of other work, is
    damaged, or is being written to (`parplan._journal`).
    """

    def __init__(self, path: Path, head: Row) -> None:
        try:
            self._kept = _journal.Journal(path, head)
        except ParplanError as error:
            raise ParplanError(f"{error}; --force begins anew, -o names another folder") from None
        self._path, self._head = path, head
        self.rows: dict[str, Row] = {}
        for number, row in enumerate(self._kept.rows, start=2):
            key, value = row.get("key"), row.get("row")
            if len(row) != 2 or not isinstance(key, dict) or not isinstance(value, dict):
                self._kept.close()
                raise ParplanError(f"{path}: line {number}: expected a key and its row")
            self.rows[_text(key)] = value

    def __enter__(self) -> "RowJournal":
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

    def built(self, kind: type[T], key: Row) -> T:
        """The row of this key as the dataclass that it is of.

        Raises `ParplanError` that names the line where it is none.
        """
        line = 2 + list(self.rows).index(_text(key))
        return build(kind, self.row_of(key), f"{self._path}: line {line}")

    def put_in_order(self, keys: Sequence[Row]) -> None:
        """Leave the rows of these keys in this order, and close; in one step."""
        rows = [{"key": dict(key), "row": dict(self.row_of(key))} for key in keys]
        self._kept.close()
        if self._kept.rows != rows:
            write_whole(self._path, _journal.journal_bytes([self._head, *rows]))


def _text(key: Row) -> str:
    return json.dumps(key, sort_keys=True)
