"""A failure at one operation on files, counted from the begin of a command.

Every write, rename, close, fsync, unlink, truncation, change of rights, new folder and opening for
writing of a file below one folder is counted, in the process that is forked for the command. Python
code writes through `_pyio` there, so that a write of any file object is one of `os` as well.
"""

import _pyio
import builtins
import errno
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("error", "full", "half", "kill")
"""An operation fails; it and all further ones that need room fail; half of a write is done before
it fails; the process is killed, in a write after half of it."""

NEED_ROOM = ("open", "write", "fsync", "rename", "mkdir")

ERRORS = {
    **dict.fromkeys(("write", "fsync", "mkdir"), errno.ENOSPC),
    **dict.fromkeys(("close", "truncate"), errno.EIO),
    **dict.fromkeys(("rename", "unlink", "open", "chmod"), errno.EACCES),
}

REAL = {name: getattr(os, name) for name in
        ("open", "write", "close", "fsync", "replace", "rename", "unlink", "remove", "ftruncate",
         "chmod", "mkdir", "rmdir")}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Minus the signal where it was killed."""
    said: str
    """What it wrote to stderr."""
    operations: tuple[str, ...]
    """What it did, as "write trials.csv"."""
    kept: dict[str, bytes]
    """The journals at the moment of the failure."""


class Faults:
    """Counts operations below `root`, and fails the one of number `at` (from 0 on)."""

    def __init__(self, root: Path, at: int | None, kind: str) -> None:
        self.root, self.at, self.kind = str(root) + "/", at, kind
        self.operations: list[str] = []
        self.kept: dict[str, bytes] = {}
        self._paths: dict[int, str] = {}
        self._busy = False

    def install(self) -> None:
        """Put itself in place of the functions of `os`, for the rest of this process."""
        for name in REAL:
            setattr(os, name, getattr(self, name))
        real_open = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
            writes = any(letter in mode for letter in "wax+")
            return (_pyio.open if writes else real_open)(file, mode, *args, **named)

        io.open = builtins.open = opened  # type: ignore[assignment]

    def fails(self, name: str, path: str, part: Callable[[], object] | None = None) -> None:
        """Count an operation on a path, and fail or end if its turn has come."""
        if self._busy or not path.startswith(self.root):
            return
        number = len(self.operations)
        self.operations.append(f"{name} {Path(path).name}")
        if self.at is None or number < self.at:
            return
        if number > self.at:
            if self.kind == "full" and name in NEED_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return
        self._keep()
        if part is not None and self.kind in ("half", "kill"):
            part()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if self.kind == "full" and name in NEED_ROOM else ERRORS[name]
        raise OSError(code, os.strerror(code), path)

    def _keep(self) -> None:
        self._busy = True
        self.kept = {str(p): p.read_bytes() for p in Path(self.root).rglob("*.jsonl")}
        text = json.dumps([self.operations, {p: b.decode() for p, b in self.kept.items()}])
        Path(self.root.rstrip("/") + ".log").write_text(text)
        self._busy = False

    def _of(self, file: int) -> str:
        return self._paths.get(file, "")

    @staticmethod
    def _path(path: Any, folder: int | None) -> str:
        text = os.fsdecode(path)
        if folder is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
        return os.path.abspath(text)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        where = self._path(path, dir_fd)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.fails("open", where)
        file: int = REAL["open"](path, flags, mode, dir_fd=dir_fd)
        self._paths[file] = where
        return file

    def write(self, file: int, content: Any) -> int:
        half = bytes(content)[: len(content) // 2]
        self.fails("write", self._of(file), lambda: half and REAL["write"](file, half))
        return int(REAL["write"](file, content))

    def close(self, file: int) -> None:
        path = self._paths.pop(file, "")
        REAL["close"](file)
        self.fails("close", path)

    def fsync(self, file: int) -> None:
        self.fails("fsync", self._of(file))
        REAL["fsync"](file)

    def ftruncate(self, file: int, length: int) -> None:
        self.fails("truncate", self._of(file))
        REAL["ftruncate"](file, length)

    def replace(self, source: Any, target: Any, **named: Any) -> None:
        self.fails("rename", self._path(target, None))
        REAL["replace"](source, target, **named)

    def rename(self, source: Any, target: Any, **named: Any) -> None:
        self.fails("rename", self._path(target, None))
        REAL["rename"](source, target, **named)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.fails("unlink", self._path(path, dir_fd))
        REAL["unlink"](path, dir_fd=dir_fd)

    def remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.unlink(path, dir_fd=dir_fd)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.fails("unlink", self._path(path, dir_fd))
        REAL["rmdir"](path, dir_fd=dir_fd)

    def chmod(self, path: Any, mode: int, **named: Any) -> None:
        if not isinstance(path, int):
            self.fails("chmod", self._path(path, None))
        REAL["chmod"](path, mode, **named)

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self.fails("mkdir", self._path(path, dir_fd))
        REAL["mkdir"](path, mode, dir_fd=dir_fd)


def ended(
    main: Callable[[Sequence[str]], int],
    words: Sequence[str],
    root: Path,
    at: int | None = None,
    kind: str = "error",
) -> Ended:
    """Run a command in a fork, in the folder `root`, with a failure at one of its operations."""
    root.mkdir(exist_ok=True)
    log, said = Path(f"{root}.log"), Path(f"{root}.stderr")
    log.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            code = _in_fork(main, words, root, at, kind, log, said)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(process, 0)
    operations, kept = json.loads(log.read_text()) if log.exists() else ([], {})
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        said=said.read_text(),
        operations=tuple(operations),
        kept={path: text.encode() for path, text in kept.items()},
    )


def _in_fork(
    main: Callable[[Sequence[str]], int],
    words: Sequence[str],
    root: Path,
    at: int | None,
    kind: str,
    log: Path,
    said: Path,
) -> int:
    os.chdir(root)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = said.open("w")
    faults = Faults(root, at, kind)
    faults.install()
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    faults.at, faults._busy = None, True
    log.write_text(json.dumps([faults.operations, {p: b.decode() for p, b in faults.kept.items()}]))
    return code
