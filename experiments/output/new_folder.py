"""Output folders of studies, which are never overwritten without `--force`."""

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from parplan._files import FolderLock, is_part
from parplan.errors import ParplanError
from parplan.experiments.output.folder import OutputFolder

MANIFEST = "manifest.json"
"""Written last: a folder with it holds whole results."""
REPORT = ("log.txt", "report.html")
"""What `--report` adds to it."""


def add_output_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """`-o` and `--force`."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(default), help="folder (default %(default)s)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the results that the folder holds"
    )


def is_done(path: Path) -> bool:
    """Whether a folder holds whole results."""
    return (path / MANIFEST).is_file()


def new_folder(
    path: Path, argv: Sequence[str], *, force: bool, unfinished: Collection[str] = ()
) -> OutputFolder:
    """A folder to write to: one that is not there, is empty, or holds `unfinished` files alone.

    `force`: results in it are replaced: the files that its manifest lists go, and `unfinished`
    ones; others stay. Raises `ParplanError` without it, and where the folder cannot be written to.
    """
    if path.is_dir():
        _lock = FolderLock(path)  # Until the folder that is returned has its own.
        held = {entry.name for entry in path.iterdir() if not is_part(entry)}
        if held - set(unfinished) and not force:
            raise ParplanError(
                f"{path}: holds {len(held)} files already; --force replaces results in it, "
                "-o names another folder"
            )
        if force:
            _clear(path, unfinished)
    return OutputFolder(path, argv)


def _clear(path: Path, unfinished: Collection[str]) -> None:
    manifest = path / MANIFEST
    listed: list[str] = []
    if manifest.is_file():
        try:
            listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParplanError(f"{manifest}: is not a manifest of parplan: {error}") from None
    # The manifest goes first: what is left of an interrupt is then no whole result.
    for name in (MANIFEST, *listed, *unfinished, *REPORT):
        file = path / str(name)
        if file.parent == path:
            file.unlink(missing_ok=True)
