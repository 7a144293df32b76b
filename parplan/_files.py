"""Atomic file writes and folder locks."""

import errno
import os
import tempfile
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Not on this system: then nothing is locked.
    fcntl = None  # type: ignore[assignment]

from parplan.errors import ParplanError

PART = ".part"
"""How the name of a file ends that is being written, and was when that was cut off."""


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step; raises `ParplanError` and leaves what was there."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ParplanError(f"{path}: cannot be written: {error.strerror}") from None


def check_writable(folder: Path) -> None:
    """Make `folder` if need be; raises `ParplanError` unless files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ParplanError(f"{folder}: cannot be written to: {error.strerror}") from None


class _Held:
    """An open folder, locked for as long as this is there."""

    def __init__(self, folder: Path) -> None:
        file = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
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


def is_part(path: Path) -> bool:
    """Whether a file is one whose writing was cut off."""
    return path.name.startswith(".") and path.name.endswith(PART)


def remove_parts(folder: Path) -> None:
    """Remove what writing left that was cut off; for one who has the lock of the folder."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
