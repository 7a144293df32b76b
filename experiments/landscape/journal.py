"""The cells that are done, one line each, so that an interrupted landscape goes on."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from parplan.experiments.landscape.cells import Cell, Request
from parplan.hardware.errors import ParplanError
from parplan.hardware.journal import Journal as Kept

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

    Raises `ParplanError` where the file holds cells of another request, or cannot be written.
    """

    def __init__(self, path: Path, request: Request) -> None:
        self.cells: dict[str, Cell] = {}
        try:
            self._kept = Kept(path, fingerprint(request))
        except ParplanError as error:
            raise ParplanError(f"{error}; --force begins anew, -o names another folder") from None
        for row in self._kept.rows:
            cell = Cell(**row)
            self.cells[_key(cell.values)] = cell

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kept.close()

    def find(self, values: Mapping[str, Any]) -> Cell | None:
        """The cell of these values, if it is done."""
        return self.cells.get(_key(values))

    def add(self, cell: Cell) -> None:
        """Keep a cell, on the disk as well, as an interrupted run would read it again."""
        self.cells[_key(cell.values)] = Cell(**self._kept.add(dataclasses.asdict(cell)))


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
