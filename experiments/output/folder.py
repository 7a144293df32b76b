"""Output folders with atomic files and a manifest."""

import csv
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from parplan._files import FolderLock, check_writable, remove_parts, write_whole
from parplan.experiments.output.provenance import provenance


class OutputFolder:
    """Where one command puts its results. Raises `ParplanError` at once if it can't, or if another
    one is doing so."""

    def __init__(self, path: Path, argv: Sequence[str]) -> None:
        check_writable(path)
        self._lock = FolderLock(path)
        remove_parts(path)
        self.path = path
        self.argv = list(argv)
        self.files: list[str] = []
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

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A CSV file with a header; all rows have the keys of the first."""
        rows = list(rows)
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, out.getvalue())

    def write_figure(self, name: str, figure: Figure) -> None:
        """A PNG file."""
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=120)
        self._write(name, out.getvalue())

    def write_manifest(self, inputs: Mapping[str, Any], seed: int | None = None) -> None:
        """`manifest.json`: the arguments, inputs, seed, versions, commit, presets and seconds."""
        manifest = {
            "arguments": self.argv,
            "inputs": dict(inputs),
            "seed": seed,
            **provenance(),
            "seconds": round(time.perf_counter() - self._start, 3),
            "files": sorted(self.files),
        }
        self.write_json("manifest.json", manifest)

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content)
        self.files.append(name)
