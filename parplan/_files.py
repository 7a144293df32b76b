"""Reading and writing files: whole or not at all, and nothing else is touched.

What is read is a regular file of a limited size; what is written is put in place in one step, and
never through a link or in place of a device. One process at a time writes to a folder.
"""

import contextlib
import errno
import os
import re
import stat
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Not on this system: then nothing is locked.
    fcntl = None  # type: ignore[assignment]

from parplan.errors import ParplanError

PART = ".parplan-part"
"""How the name of a file ends that is being written, and was when that was cut off."""

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of a file that is read, but for journals, which parplan writes itself."""

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular(
    path: Path,
    most: int | None = MAX_FILE_BYTES,
    check_begin: Callable[[bytes], None] = lambda begin: None,
) -> bytes:
    """The content of a regular file of at most `most` bytes.

    `check_begin`: raises `ParplanError` for the first MiB, or less, of a file that need not be read
    to its end. Raises `ParplanError` naming it for any other: a device or a pipe may never end.
    """
    try:
        # Without waiting for the other end of a pipe.
        file = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise ParplanError(
                    f"{path}: cannot be read: expected a file, got {_kind(found.st_mode)}"
                )
            content = bytearray()
            while part := os.read(file, 1 << 20):
                if not content:
                    check_begin(part)
                content += part
                if most is not None and len(content) > most:
                    raise ParplanError(f"{path}: larger than the {most} bytes that are read")
        finally:
            os.close(file)
    except OSError as error:
        raise ParplanError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise _no_name(path) from None
    return bytes(content)


def is_file(path: Path) -> bool:
    """Whether a regular file is at `path`; a name that no file can have is none."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """Whether a folder is at `path`; a name that no folder can have is none."""
    return os.path.isdir(path)


def without_links(path: Path) -> Path:
    """The absolute path behind all links; where they lead in a circle, up to there."""
    return Path(os.path.realpath(path))


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step; raises `ParplanError` and leaves what was there.

    Only a regular file is replaced: not a link, a device or a pipe. The content is on the disk
    before the name is, so that a power cut leaves the old file or the new one.
    """
    try:
        check_replaceable(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        try:
            try:
                write_all(handle, content)
                os.chmod(name, 0o666 & ~_umask())
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(name, path)
        except BaseException:
            # What cannot be removed now goes with the next run (`remove_parts`).
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise ParplanError(f"{path}: cannot be written: {error.strerror}") from None
    except ValueError:
        raise _no_name(path) from None


def check_replaceable(path: Path) -> None:
    """Raise `ParplanError` where something other than a regular file is at `path`."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ParplanError(f"{path}: cannot be written: {error.strerror}") from None
    except ValueError:
        raise _no_name(path) from None
    if not stat.S_ISREG(mode):
        raise ParplanError(
            f"{path}: cannot be written: it is {_kind(mode)}; only files are replaced"
        )


def open_to_add(path: Path) -> int:
    """A file to be read and written, made where there is none, and never through a link.

    Raises `ParplanError` where that is not possible.
    """
    try:
        check_replaceable(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise ParplanError(f"{path}: cannot be written: {error.strerror}") from None
    except ValueError:
        raise _no_name(path) from None


def append_line(path: Path, text: str) -> None:
    """Add a line to a file, made where there is none; raises `ParplanError` where it cannot be."""
    file = open_to_add(path)
    try:
        try:
            os.lseek(file, 0, os.SEEK_END)
            write_all(file, f"{text}\n".encode())
        finally:
            os.close(file)
    except OSError as error:
        raise ParplanError(f"{path}: cannot be written: {error.strerror}") from None


def remove_file(path: Path) -> None:
    """Remove a file, if there is one; raises `ParplanError` where it cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ParplanError(f"{path}: cannot be removed: {error.strerror}") from None


def sync_folder(folder: Path) -> None:
    """Have the names of the files of a folder on the disk, where its file system can do that."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def close_quietly(file: int) -> None:
    """Close a file of which nothing is waited for."""
    with contextlib.suppress(OSError):
        os.close(file)


def write_all(file: int, content: bytes) -> None:
    """Write all of `content` to an open file."""
    done = 0
    while done < len(content):
        done += os.write(file, content[done:])


def check_writable(folder: Path) -> None:
    """Make `folder` if need be; raises `ParplanError` unless files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ParplanError(f"{folder}: cannot be written to: {error.strerror}") from None
    except ValueError:
        raise _no_name(folder) from None


class _Held:
    """An open folder, locked for as long as this is there."""

    def __init__(self, folder: Path) -> None:
        file = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, close_quietly, file)
        lock_file(file, folder)


_HELD: "weakref.WeakValueDictionary[tuple[int, int], _Held]" = weakref.WeakValueDictionary()
"""The locks of this process by device and inode: the kernel would set it against itself."""


class FolderLock:
    """A folder that this process alone writes to, for as long as a lock of it is there.

    Several locks of one process on a folder are possible. An end of the process, however it comes,
    gives the folder back. Raises `ParplanError` where another process has it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            found = os.stat(folder)
            key = found.st_dev, found.st_ino
            self._held = _HELD.get(key) or _Held(folder)
        except OSError as error:
            raise ParplanError(f"{folder}: cannot be written to: {error.strerror}") from None
        _HELD[key] = self._held


def lock_file(file: int, path: Path) -> None:
    """Lock an open file or folder for this process until it is closed.

    Raises `ParplanError` where another process has locked it. File systems that cannot lock are
    taken as they are.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ParplanError(f"{path}: another process of parplan writes to it") from None


_PART_NAME = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(PART)}")


def is_part(path: Path) -> bool:
    """Whether a file is one of parplan's whose writing was cut off."""
    return _PART_NAME.fullmatch(path.name) is not None


def remove_parts(folder: Path, name: str = "") -> None:
    """Remove what writing left that was cut off; for one who has the lock of the folder.

    `name`: of this file alone.
    """
    for part in folder.glob(f".*{PART}"):
        if (
            part.name.startswith(f".{name}")
            and is_part(part)
            and stat.S_ISREG(part.lstat().st_mode)
        ):
            remove_file(part)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "no file")


def _no_name(path: Path) -> ParplanError:
    return ParplanError(f"{str(path)!r}: not the name of a file")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
