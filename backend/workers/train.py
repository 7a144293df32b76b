"""Runs a training script on all processes of this machine, by torchrun. Imports no torch."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from parplan.backend.require import require_torch
from parplan.backend.workers.launch import ENVIRONMENT, LOOPBACK, last_words, loopback_only, stop
from parplan.errors import ParplanError, RunFailedError

FOLLOW_S = 0.2
SILENT = "has not answered"
"""What `parplan.backend.workers.neighbour_watch` says of a process that is stopped."""

CALLED = "PARPLAN_TRAIN_CALLED"
"""Names the file that tells `train` that the script has the one line."""

Write = Callable[[str], object]


def tell_called() -> None:
    """Leave word, for the `train` that started this process, if one did, that the line is there."""
    if path := os.environ.get(CALLED):
        with contextlib.suppress(OSError):  # Of a command that has ended.
            Path(path).touch()


def train(
    script: Path,
    arguments: Sequence[str],
    num_processes: int,
    *,
    timeout_s: float | None = None,
    report: str | None = None,
    log_every: int | None = None,
    write: Write = sys.stderr.write,
) -> None:
    """Run `script` until it ends. What the first process prints appears as it is printed.

    timeout_s: seconds that a process may be silent or a collective may take, of processes that
    parplan plans for. report: the folder of `parplan.backend.script.run_record`; None: its own
    default. log_every: steps from one line of `parplan.backend.script.throughput` to the next.
    A script without the one line is trained all the same, and `write` is told so at its end.
    Raises `ParplanError` for a script that is not there, and `RunFailedError`
    with the last words of the process that failed first.
    """
    if num_processes < 1:
        raise ParplanError(f"processes: must be at least 1, got {num_processes}")
    if not script.is_file():
        raise ParplanError(f"{script}: there is no such script")
    require_torch("training")
    limit = {} if timeout_s is None else {"PARPLAN_TIMEOUT_S": f"{timeout_s:g}"}
    if report is not None:
        limit["PARPLAN_REPORT"] = report
    if log_every is not None:
        limit["PARPLAN_LOG_STEPS"] = str(log_every)
    with tempfile.TemporaryDirectory(prefix="parplan-") as name:
        folder = Path(name)
        limit[CALLED] = str(folder / "called")
        with (folder / "torchrun.log").open("w") as log:
            process = subprocess.Popen(
                [*_torchrun(folder, num_processes), str(script), *arguments],
                stderr=log,
                text=True,
                env={**ENVIRONMENT, **loopback_only(), **os.environ, **limit},
                start_new_session=True,
            )
            try:
                with _followed(folder, write):
                    process.wait()
            finally:
                stop(process)
        if process.returncode != 0:
            raise RunFailedError(silent_process(folder) or last_words(folder, process.returncode))
        if not (folder / "called").exists():
            write(
                f"parplan: {script} never called enable_advanced_parallelization, so nothing was "
                f"planned: {_each_of(num_processes)} ran the script as it is\n"
            )


def _each_of(num_processes: int) -> str:
    return f"each of {num_processes} processes" if num_processes > 1 else "the one process"


def _torchrun(folder: Path, num_processes: int) -> list[str]:
    """The command of torchrun that shows the first process and writes the others to files."""
    kept = ",".join(f"{rank}:{2 if rank == 0 else 3}" for rank in range(num_processes))
    command = [sys.executable, "-P", "-m", LOOPBACK, "--max-restarts=0"]
    return [
        *command,
        f"--nproc-per-node={num_processes}",
        f"--log-dir={folder}",
        f"--redirects={kept}",
    ]


@contextlib.contextmanager
def _followed(folder: Path, write: Write) -> Iterator[None]:
    """Write what the first process writes to stderr, while the body runs."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(folder, write, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(folder: Path, write: Write, ended: threading.Event) -> None:
    place = 0
    while True:
        last = ended.wait(FOLLOW_S)
        for path in folder.glob("*/attempt_0/0/stderr.log"):
            with path.open(errors="replace") as log:
                log.seek(place)
                text = log.read()
                place = log.tell()
            if text:
                write(text)
        if last:
            return


def silent_process(folder: Path) -> str:
    """Return the report of a process about another one that did not answer, or nothing."""
    for path in sorted(folder.glob("*/attempt_0/*/stderr.log")):
        found = re.search(rf"process \d+ {SILENT}[^\n]*", path.read_text(errors="replace"))
        if found:
            return found[0]
    return ""
