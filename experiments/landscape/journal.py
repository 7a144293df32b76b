"""The cells that are done, one line each, so that an interrupted landscape goes on."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from parplan.experiments.landscape.cells import Cell, Request
from parplan.hardware.errors import ParplanError

NAME = "cells.jsonl"


def fingerprint(request: Request) -> dict[str, Any]:
    """What has to be equal for cells to belong to a request."""
    table = {
        "workload": dataclasses.asdict(request.workload),
        "cluster": dataclasses.asdict(dataclasses.replace(request.cluster, measured=None)),
        "axes": [dataclasses.asdict(axis) for axis in request.axes],
        "base": dataclasses.asdict(request.base),
        "around": None if request.around is None else request.around.to_json(),
        "run": dataclasses.asdict(request.run),
    }
    found: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return found


class Journal:
    """Cells by their values: those of an earlier run, and the ones that are added.

    Raises `ParplanError` where the file holds cells of another request.
    """

    def __init__(self, path: Path, request: Request) -> None:
        self.path = path
        self.cells: dict[str, Cell] = {}
        head = fingerprint(request)
        lines = _whole_lines(path)
        if lines and lines[0] != head:
            raise ParplanError(
                f"{path}: cells of another landscape that was interrupted; --force begins anew, "
                "-o names another folder"
            )
        for line in lines[1:]:
            cell = Cell(**line)
            self.cells[_key(cell.values)] = cell
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

    def find(self, values: Mapping[str, Any]) -> Cell | None:
        """The cell of these values, if it is done."""
        return self.cells.get(_key(values))

    def add(self, cell: Cell) -> None:
        """Keep a cell, on the disk as well."""
        self._write(dataclasses.asdict(cell))
        self.cells[_key(cell.values)] = cell

    def _write(self, table: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(table) + "\n")
        self._file.flush()


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


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
