"""Runs the command line as a user does, in a process of its own, and watches its workers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

LAUNCHERS = {"torch.distributed.run", "parplan.backend.workers.loopback"}
"""Modules that start workers; their command lines name the module of these, too."""


def parplan(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`parplan ARGUMENTS` in `cwd`; never raises for its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "parplan.experiments", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """The same, started, with its stderr at hand."""
    return subprocess.Popen(
        [sys.executable, "-m", "parplan.experiments", *map(str, arguments)],
        cwd=cwd,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    """A process that was started in the background ignores them, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def workers(of: int) -> list[int]:
    """The processes that the command of this number has started under torchrun."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text().split("\0")
            job = next((word for word in words if "parplan-" in word), None)
            if "parplan.backend.workers.worker" in words and job and LAUNCHERS.isdisjoint(words):
                launcher = json.loads((Path(words[-2]) / "job.json").read_text())["launcher"]
                found += [int(path.name)] if launcher == of else []
        except (OSError, ValueError):
            continue
    return found


def wait_for(condition: Callable[[], bool], within_s: float) -> None:
    """Fails unless `condition` becomes true in time."""
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


def all_gone(pids: list[int]) -> bool:
    """Whether none of these processes is there."""
    return not any(Path("/proc", str(pid)).exists() for pid in pids)
