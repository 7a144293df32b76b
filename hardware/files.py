"""Writing files so that a failure leaves what was there."""

import os
import tempfile
from pathlib import Path

from parplan.hardware.errors import ParplanError


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step; raises `ParplanError` and leaves what was there."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
