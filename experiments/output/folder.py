"""Output folders with atomic files and a manifest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parplan._files import (
    FolderLock,
    append_line,
    check_writable,
    remove_file,
    remove_parts,
    sync_folder,
    write_whole,
)
from parplan._strict import read_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.output.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANIFEST = "manifest.json"
"""Written last: a folder with it holds whole results."""

UNFINISHED = ".parplan-files"
"""The names of parplan's files, one a line, in a folder that has no manifest yet."""

TIMELINE = "timeline.json"

WITH_PICTURES: ContextVar[bool] = ContextVar("WITH_PICTURES", default=True)
"""Whether commands write pictures."""

LARGE_TRACE = 8_000_000
"""Bytes from which on a timeline is compressed."""

REPORT = ("log.txt", "report.html", "explore.html")
"""Files of a folder with a manifest that the manifest does not list."""


class OutputFolder:
    """The folder for the results of one command.

    Files that parplan did not write are never replaced. `expected`: names that will be written, so
    that this is found at once. Raises `ParplanError` if it cannot be written, or if another process
    is writing it.
    """

    def __init__(self, path: Path, argv: Sequence[str], expected: Iterable[str] = ()) -> None:
        check_writable(path)
        self._lock = FolderLock(path)
        remove_parts(path)
        self.path = path
        self.argv = list(argv)
        self.files: list[str] = []
        self._own = own_files(path)
        self._begun = False
        for name in (MANIFEST, *expected):
            self._check_own(name)
        self._start = time.perf_counter()

    def write_text(self, name: str, text: str) -> None:
        """A text file, UTF-8."""
        self._write(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """A file as it is."""
        self._write(name, content)

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_trace(self, trace: Mapping[str, Any]) -> None:
        """`timeline.json`; a large one as `timeline.json.gz`, which Perfetto opens as well."""
        content = (json.dumps(trace, separators=(",", ":")) + "\n").encode()
        packed = f"{TIMELINE}.gz"
        if len(content) <= LARGE_TRACE:
            self.remove(packed)
            self.write_bytes(TIMELINE, content)
        else:
            self.remove(TIMELINE)
            self.write_bytes(packed, gzip.compress(content, compresslevel=6, mtime=0))

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A CSV file with a header; all rows have the keys of the first."""
        rows = list(rows)
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, out.getvalue())

    def write_figure(self, name: str, make: Callable[[], Figure]) -> None:
        """A PNG file, but for commands with `--no-pictures`, for which one of before goes."""
        if not WITH_PICTURES.get():
            self.remove(name)
            return
        figure = make()
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=120)
        self._write(name, out.getvalue())

    def write_manifest(self, inputs: Mapping[str, Any], seed: int | None = None) -> None:
        """`manifest.json`, the last file: arguments, inputs, seed, versions, commit, seconds."""
        manifest = {
            "arguments": self.argv,
            "inputs": dict(inputs),
            "seed": seed,
            **provenance(),
            "seconds": round(time.perf_counter() - self._start, 3),
            "files": sorted(self.files),
        }
        self.write_json(MANIFEST, manifest)
        sync_folder(self.path)
        remove_file(self.path / UNFINISHED)

    def adopt(self, name: str) -> None:
        """Count a file that is there, and was checked, among those that this command wrote."""
        self._own.add(name)
        self._begin()
        self.files.append(name)

    def remove(self, name: str) -> None:
        """Remove a file of an earlier run, if it is there and was written by parplan."""
        if name in self._own:
            remove_file(self.path / name)

    def remove_earlier(self, keep: str) -> None:
        """Remove the files of an earlier run that this one did not write, all but `keep`."""
        for name in sorted(self._own - {*self.files, MANIFEST, UNFINISHED, keep}):
            self.remove(name)

    def _write(self, name: str, content: bytes) -> None:
        self._begin()
        if name not in self._own:
            self._check_own(name)
            append_line(self.path / UNFINISHED, name)
            self._own.add(name)
        write_whole(self.path / name, content)
        self.files.append(name)

    def _begin(self) -> None:
        """What is there becomes unfinished: the manifest of earlier results goes."""
        if self._begun:
            return
        write_whole(self.path / UNFINISHED, "".join(f"{n}\n" for n in sorted(self._own)).encode())
        if MANIFEST in self._own:
            remove_file(self.path / MANIFEST)
        self._begun = True

    def _check_own(self, name: str) -> None:
        path = self.path / name
        if name not in self._own and os.path.lexists(path):
            raise ParplanError(
                f"{path}: is there already, and parplan did not write it; -o names another folder"
            )


def own_files(folder: Path) -> set[str]:
    """The names of the files in a folder that parplan wrote.

    By its manifest, or by the list that an unfinished command leaves. Raises `ParplanError` for a
    `manifest.json` that is none of parplan's.
    """
    own: set[str] = set()
    if os.path.lexists(folder / UNFINISHED):
        text = read_text(folder / UNFINISHED)
        # A last line without its end was cut off before its file was written.
        own |= {UNFINISHED, *text.split("\n")[:-1]}
    if os.path.lexists(folder / MANIFEST):
        own |= {MANIFEST, *REPORT, *_listed(folder / MANIFEST)}
    return {name for name in own if name and Path(name).name == name}


def _listed(manifest: Path) -> list[str]:
    table = read_json(manifest)
    listed = table.get("files") if isinstance(table, dict) and "arguments" in table else None
    if not isinstance(listed, list):
        raise ParplanError(f"{manifest}: is not a manifest of parplan; -o names another folder")
    return [str(name) for name in listed]
