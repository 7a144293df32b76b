"""Append-only journals, from which interrupted work is resumed.

Each line is one JSON object with the number of the line, the CRC-32 of both, and the table that was
added: `{"line": 3, "crc32": "89abcdef", "row": {...}}`. A line is written by one call, so that an
end at any moment leaves whole lines and at most one part of a line, which the next run cuts off.
"""

import contextlib
import json
import os
import time
import weakref
import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from parplan._files import close_quietly, lock_file, open_to_add, read_regular, write_all
from parplan._strict import parse_json
from parplan.errors import ParplanError, short

Row = Mapping[str, Any]

SYNC_EVERY_S = 1.0
"""Lines are with the kernel at once, and on the disk within about this long: what a power cut can
take. An end of the process takes nothing."""


class Journal:
    """The tables of an earlier run, `rows`, and those that are added.

    `head`: what they belong to, the first line. `anew`: what the file holds is replaced. Raises
    `ParplanError` where another process writes to the file, where it is damaged, or where its head
    is another one.
    """

    def __init__(self, path: Path, head: Row, *, anew: bool = False) -> None:
        self.path = path
        self._file = open_to_add(path)
        self._unsynced: OSError | None = None
        try:
            lock_file(self._file, path)
            content = _content(self._file, path)
            if anew:
                os.ftruncate(self._file, 0)
                content = b""
            found, self._end = _whole_rows(path, content)
            self._number = len(found)
            self._synced_s = time.monotonic()
            os.ftruncate(self._file, self._end)
            if found and found[0] != _as_read(head):
                raise ParplanError(
                    f"{path}: is of other work that was interrupted "
                    f"({first_difference(found[0], _as_read(head))})"
                )
            self.rows: list[dict[str, Any]] = found[1:]
            if not found:
                self._write([head])
        except BaseException as error:
            close_quietly(self._file)
            if isinstance(error, OSError):
                raise self._unwritten(error) from None
            raise
        self._closing = weakref.finalize(self, close_quietly, self._file)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, row: Row) -> dict[str, Any]:
        """Keep a table, on the disk as well; returns it as the file gives it back.

        Raises `ParplanError` where that is not possible; what was kept before stays.
        """
        self._write([row])
        kept: dict[str, Any] = _as_read(row)
        self.rows.append(kept)
        return kept

    def extend(self, rows: Iterable[Row]) -> None:
        """Keep several, without giving them back."""
        self._write(list(rows))

    def close(self) -> None:
        """All is on the disk, and another process may write to the file."""
        if self._closing.detach() is None:
            return
        try:
            try:
                os.fsync(self._file)
            finally:
                os.close(self._file)
        except OSError as error:
            raise self._unwritten(error) from None
        if self._unsynced is not None:
            raise self._unwritten(self._unsynced)

    def _write(self, rows: list[Row]) -> None:
        lines = [_line(number, _text(row)) for number, row in enumerate(rows, start=self._number)]
        content = "".join(lines).encode()
        if self._unsynced is not None:
            raise self._unwritten(self._unsynced)
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            write_all(self._file, content)
        except OSError as error:
            # Part of a line would only be in the way; the next run cuts off what cannot go now.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise self._unwritten(error) from None
        self._end += len(content)
        self._number += len(rows)
        if time.monotonic() >= self._synced_s + SYNC_EVERY_S:
            self._synced_s = time.monotonic()
            try:
                os.fsync(self._file)
            except OSError as error:
                # The lines are there, once; the next call says it, since a later sync may not.
                self._unsynced = error

    def _unwritten(self, error: OSError) -> ParplanError:
        return ParplanError(
            f"{self.path}: cannot be written: {error.strerror}; what was done before is kept"
        )


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All tables of a journal, the head first; the file stays as it is.

    Raises `ParplanError` where it cannot be read or is damaged.
    """
    content = read_regular(path, None, partial(_check_is_journal, path))
    return _whole_rows(path, content)[0]


def journal_bytes(rows: Iterable[Row]) -> bytes:
    """Return the content of a journal of these tables, the head first, to be written at once."""
    return "".join(_line(number, _text(row)) for number, row in enumerate(rows)).encode()


def first_difference(found: Row, own: Row, where: str = "") -> str:
    """Describe the first difference of two tables, as `cluster.num_nodes: 2, now 4`."""
    for key in dict.fromkeys([*own, *found]):
        old, new = found.get(key), own.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return first_difference(old, new, f"{where}{key}.")
        return f"{where}{key}: {_short(old)}, now {_short(new)}"
    return ""


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _text(row: Any) -> str:
    return json.dumps(row, default=str)


def _as_read(row: Row) -> Any:
    return json.loads(_text(row))


def _line(number: int, text: str) -> str:
    return f'{{"line": {number}, "crc32": "{_sum(number, text)}", "row": {text}}}\n'


def _sum(number: int, text: str) -> str:
    return f"{zlib.crc32(f'{number} {text}'.encode()):08x}"


def _content(file: int, path: Path) -> bytes:
    parts = list[bytes]()
    while part := os.read(file, 1 << 20):
        if not parts:
            _check_is_journal(path, part)
        parts.append(part)
    return b"".join(parts)


def _check_is_journal(path: Path, content: bytes) -> None:
    """Raise `ParplanError` for a file that parplan did not begin: it is not touched.

    `content`: the first MiB of it, or less. A power cut leaves no more than that of zeros alone.
    """
    begin = b'{"line": '
    first = content.rstrip(b"\0")[: len(begin)]
    if not begin.startswith(first) or (not first and len(content) >= 1 << 20):
        raise ParplanError(f"{path}: not a journal of this version of parplan")


def _whole_rows(path: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The tables of the lines that are whole, and how many bytes these are.

    A line that is not whole ends them. Raises `ParplanError` where whole ones come after it: then
    the file was not cut off but damaged.
    """
    rows: list[dict[str, Any]] = []
    end = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        row = _row(line, number, f"{path}: line {number + 1}")
        if row is None:
            if any(_is_whole(later) for later in lines[number:]):
                raise ParplanError(
                    f"{path}: line {number + 1} is damaged or missing, and others follow; "
                    "it was not written by one run of parplan from end to end"
                )
            if number == 0 and b"\n" in line:
                raise ParplanError(f"{path}: not a journal of this version of parplan")
            break
        rows.append(row)
        end += len(line)
    return rows, end


def _row(line: bytes, number: int, where: str) -> dict[str, Any] | None:
    """The table of a whole line with this number; None for any other.

    Raises `ParplanError` for a line with the right sum that no journal has.
    """
    text = _text_of(line, number)
    if text is None:
        return None
    row = parse_json(text, where)
    if not isinstance(row, dict):
        raise ParplanError(f"{where}: expected a table, got {short(row)}")
    return row


def _text_of(line: bytes, number: int) -> str | None:
    """The text of the row of a line with this number and the right sum; None for any other."""
    begin = f'{{"line": {number}, "crc32": "'.encode()
    if not line.startswith(begin) or not line.endswith(b"}\n"):
        return None
    try:
        text = line[len(begin) + len('01234567", "row": ') : -2].decode()
        return text if line.decode() == _line(number, text) else None
    except ValueError:
        return None


def _is_whole(line: bytes) -> bool:
    """Whether a line is one of a journal, whatever its number."""
    number = line.removeprefix(b'{"line": ').split(b",", 1)[0]
    return number.isdigit() and len(number) < 19 and _text_of(line, int(number)) is not None
