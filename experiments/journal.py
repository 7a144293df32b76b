"""Rows that are done, one line each, so that interrupted work goes on."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from parplan.hardware.cluster import Cluster
from parplan.hardware.errors import ParplanError
from parplan.sim.workload import Workload

Row = Mapping[str, Any]


def fingerprint(workload: Workload, cluster: Cluster | None, **others: Any) -> dict[str, Any]:
    """What has to be equal for rows to belong to the same work; as JSON gives it back."""
    table = {"workload": dataclasses.asdict(workload), **others}
    if cluster is not None:
        table["cluster"] = dataclasses.asdict(dataclasses.replace(cluster, measured=None))
    found: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return found


class Journal:
    """Rows by their keys: those of an earlier run, and the ones that are added.

    `head`: what the rows are of. Raises `ParplanError` where the file holds rows of other work.
    """

    def __init__(self, path: Path, head: Row) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        lines = _whole_lines(path)
        if lines and lines[0] != head:
            raise ParplanError(
                f"{path}: is of other work that was interrupted; --force begins anew, "
                "-o names another folder"
            )
        self.rows |= {_text(line["key"]): line["row"] for line in lines[1:]}
        try:
            self._file = path.open("a", encoding="utf-8")
            if not lines:
                self._write(head)
        except OSError as error:
            raise ParplanError(f"{path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def find(self, key: Row) -> Row | None:
        """The row of this key, if it is done."""
        return self.rows.get(_text(key))

    def add(self, key: Row, row: Row) -> Row:
        """Keep a row, on the disk as well; returns it as the disk gives it back."""
        line = json.dumps({"key": dict(key), "row": dict(row)})
        self._file.write(f"{line}\n")
        self._file.flush()
        kept: Row = json.loads(line)["row"]
        self.rows[_text(key)] = kept
        return kept

    def _write(self, table: Row) -> None:
        self._file.write(json.dumps(table) + "\n")
        self._file.flush()


def _text(key: Row) -> str:
    return json.dumps(key, sort_keys=True)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that were written whole; half a line at the end, of a crash, is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    try:
        found = [json.loads(line) for line in content[:end].splitlines()]
    except ValueError as error:
        raise ParplanError(f"{path}: not lines of JSON: {error}; --force begins anew") from None
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return found
