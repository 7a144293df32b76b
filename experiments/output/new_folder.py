"""Output folders of studies: work that was interrupted there goes on, finished work stays."""

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from parplan._files import FolderLock, is_file, is_folder, remove_file, remove_parts
from parplan._journal import read_journal
from parplan._strict import read_json
from parplan.experiments.output.folder import (
    MANIFEST,
    UNFINISHED,
    OutputFolder,
    own_files,
)


def add_output_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """`-o` and `--force`."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(default), help="folder (default %(default)s)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="begin anew, also where the same work is finished or begun",
    )


def is_done(path: Path) -> bool:
    """Whether a folder holds whole results."""
    return is_file(path / MANIFEST)


NOT_OF_THE_RESULTS = {
    *("output", "resume", "report", "force", "workers", "dask", "jobs"),
    *("json", "quiet", "no_color", "why"),
}
"""Arguments that change no byte of the results."""


def says_finished(path: Path, given: Mapping[str, Any], head: Mapping[str, Any] | None) -> bool:
    """Whether a folder holds the whole results of this work already; then that is said on stderr.

    `given`: the inputs for the manifest; `head`: what else the results depend on, as the manifest
    has it under `depends_on`. What a command left that was ended behind its manifest goes. Raises
    `ParplanError` where another process writes to the folder.
    """
    if not is_done(path):
        return False
    _lock = FolderLock(path)
    table = read_json(path / MANIFEST)
    found = table.get("inputs") if isinstance(table, dict) else None
    if not isinstance(found, dict):
        return False
    own = json.loads(json.dumps({**given, "depends_on": digest(head)}, default=str))
    names = (own.keys() | found.keys()) - NOT_OF_THE_RESULTS
    if any(own.get(name) != found.get(name) for name in names):
        return False
    remove_parts(path)
    remove_file(path / UNFINISHED)
    sys.stderr.write(f"parplan: is finished already: results: {path}/\n")
    return True


def digest(value: object) -> str:
    """A short text that is another one for another value."""
    text = json.dumps(value, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def new_folder(
    path: Path, argv: Sequence[str], *, force: bool, unfinished: Collection[str] = ()
) -> OutputFolder:
    """A folder to write to, as `OutputFolder` is: parplan's own results go, other files stay.

    `unfinished`: files of work that was interrupted, which goes on, but with `force`. Raises
    `ParplanError` where the folder cannot be written to.
    """
    if is_folder(path):
        _lock = FolderLock(path)  # Until the folder that is returned has its own.
        if force or is_done(path):
            _clear(path, unfinished)
    return OutputFolder(path, argv)


def _clear(path: Path, unfinished: Collection[str]) -> None:
    """Remove parplan's files; the manifest goes first, so that what is left is no whole result."""
    own = own_files(path)
    for name in unfinished:
        if name.endswith(".jsonl") and is_file(path / name):
            read_journal(path / name)  # Raises for what is none.
            own.add(name)
    for name in sorted(own, key=lambda name: (name != MANIFEST, name)):
        if not is_folder(path / name):
            remove_file(path / name)
