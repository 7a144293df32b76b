"""Text on the terminal, cleaned of control characters, and the handler of last resort."""

import contextlib
import errno
import io
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from typing import TextIO

from parplan.errors import ParplanError, one_line, printable

DEBUG = "PARPLAN_DEBUG"
"""The environment variable that shows the traceback of an error that no one foresaw."""

INTERNAL_ERROR = 70
"""The exit code of such an error (EX_SOFTWARE of sysexits.h)."""

LAYOUT = "\n\t"
"""Characters that text is laid out with; on a terminal, `\\r` rewrites a line of progress."""


class _Clean(io.TextIOBase):
    """A stream in which names that hold control characters are shown with escapes."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream = stream
        self._name = name

    def write(self, text: str) -> int:
        keep = f"{LAYOUT}\r" if text.startswith("\r") else LAYOUT
        clean = text if text.isprintable() else printable(text, keep)
        with self._errors():
            try:
                self.stream.write(clean)
            except UnicodeEncodeError:  # An encoding without these letters.
                known = clean.encode(self.stream.encoding or "ascii", "backslashreplace")
                self.stream.write(known.decode(self.stream.encoding or "ascii"))
        return len(text)

    def styled(self, text: str) -> None:
        """Write text with colours.

        Those of `parplan.experiments.output.terminal`; what else it holds is clean already.
        """
        with self._errors():
            self.stream.write(text)

    def flush(self) -> None:
        """Pass the text on. A closed stream has none left: what logs at the end flushes it too."""
        if not self.stream.closed:
            with self._errors():
                self.stream.flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ParplanError(f"{self._name}: cannot be written: {error.strerror}") from None
        except ValueError as error:  # It is closed.
            raise ParplanError(f"{self._name}: cannot be written: {error}") from None

    def isatty(self) -> bool:
        return not self.stream.closed and self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


@contextlib.contextmanager
def clean_output() -> Iterator[None]:
    """While the body runs, control characters reach neither stdout nor stderr."""
    _hold_streams()
    out = sys.stdout if sys.stdout is not None else _closed()
    err = sys.stderr if sys.stderr is not None else io.StringIO()
    with (
        contextlib.redirect_stdout(_Clean(out, "standard output")),
        contextlib.redirect_stderr(_Clean(err, "standard error")),
    ):
        yield


def _closed() -> TextIO:
    """What a command was started without: what it says there is lost, and that is an error."""
    stream = io.StringIO()
    stream.close()
    return stream


def _hold_streams() -> None:
    """Open what the process was started without, lest a file of results takes its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def close_output() -> None:
    """What is still buffered has nowhere to go: its reader has gone, or the disk is full."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


OF_THE_MACHINE = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES),
        *(errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ESTALE),
    )
)
"""Errors of the operating system that no program is to blame for."""


def is_of_the_machine(error: OSError) -> bool:
    """Whether a disk, a limit or permissions are to blame, and not parplan."""
    gone = error.errno == errno.ENOENT and not os.path.isdir(os.curdir)
    return error.errno in OF_THE_MACHINE or gone


def said_by_the_machine(error: OSError) -> str:
    """What the operating system said, with the file that it is about where there is one."""
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}"


def internal_error(error: BaseException, argv: Sequence[str]) -> str:
    """One line about an error that is a mistake of parplan, with the file that has the rest."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG) not in (None, "", "0"):
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
    said = one_line(f"{type(error).__name__}: {error}".rstrip(": "))
    try:
        where = f"the report is in {_saved(text, argv)}"
    except OSError as problem:
        where = f"no report could be saved ({problem.strerror})"
    return f"internal error: {said}; this is a mistake in parplan: {where}, {DEBUG}=1 shows it"


def _saved(text: str, argv: Sequence[str]) -> str:
    handle, name = tempfile.mkstemp(prefix="parplan-report-", suffix=".txt")
    about = (
        f"arguments: {list(argv)!r}",
        f"python: {sys.version}",
        f"platform: {platform.platform()}",
        f"folder: {os.getcwd()!r}",
    )
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n".join([*about, "", text]))
    return name
