"""Starts worker processes with torchrun, watches them, and leaves none behind.

The workers run `parplan.backend.workers.worker` on a job, a table of JSON. What rank 0 prints as a
line is progress; what it returns comes back. Imports no torch, so that a command can start without
it.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parplan._strict import read_json
from parplan.backend.require import require_torch
from parplan.backend.workers.awake_clock import AwakeClock
from parplan.backend.workers.heartbeat import FOLDER
from parplan.backend.workers.supervise import (
    LONGEST_LOOK_S,
    SILENT_S,
    STALL_S,
    CutOffError,
    Supervisor,
    steps_of,
)
from parplan.errors import ParplanError, RunFailedError

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Freed memory stays with the process (glibc): without this every step gives its activations
    # back to the kernel and faults them in again, which takes longer than some of its layers.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    # Sets of words have the same order in all processes: vocabularies are made of them.
    "PYTHONHASHSEED": "0",
}
"""What the workers find in their environment unless it is set already."""

OWN_MODULES = {"PYTHONSAFEPATH": "1"}
"""Workers of parplan import no `random.py` or `torch.py` of the current folder."""

LOOPBACK = "parplan.backend.workers.loopback"


def loopback_only() -> dict[str, str]:
    """What lets processes of one machine listen on its loopback interface alone."""
    names = [name for _, name in socket.if_nameindex() if re.fullmatch(r"lo\d*", name)]
    if not names:
        return {}
    return dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"), names[0])


STOP_S = 10.0
"""How long torchrun may take to stop its workers before it is killed."""

LOOK_EVERY_S = 0.5
"""Between two looks at the workers."""

OUT_OF_MEMORY = "out_of_memory.json"
"""What a worker leaves that could not have the memory it asked for."""

WORKER = "parplan.backend.workers.worker"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The machines that take part, each with a launcher of its own; this one is number `rank`."""

    count: int = 1
    rank: int = 0
    endpoint: str = ""
    """HOST:PORT of machine 0, where all meet (torchrun's static rendezvous)."""

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.rank < self.count:
            raise ParplanError(
                f"nnodes, node-rank: expected a rank from 0 to nnodes - 1, got {self.rank} of "
                f"{self.count}"
            )
        port = re.fullmatch(r"[^:\s]+:([0-9]{1,5})", self.endpoint)
        if self.count > 1 and (port is None or int(port[1]) > MOST_PORT):
            raise ParplanError(
                f"rdzv-endpoint: several nodes need HOST:PORT of node 0, got {self.endpoint!r}"
            )


MOST_PORT = 65535
ALONE = Nodes()


class OutOfMemoryError(RunFailedError):
    """A worker could not have the memory it asked for."""

    def __init__(self, place: int | None) -> None:
        super().__init__("out of memory" + ("" if place is None else f" in plan {place}"))
        self.place = place
        """Of the plan among those of the job, if it was one of theirs."""


def launch(
    job: Mapping[str, Any],
    num_processes: int,
    *,
    timeout_s: float,
    report: Report = lambda line: None,
    module: str = WORKER,
    silent_s: float = SILENT_S,
    stall_s: float = STALL_S,
    nodes: Nodes = ALONE,
) -> Any:
    """Run `module` on `job` in `num_processes` local processes; returns what rank 0 returned.

    With several `nodes`, each of them calls this with the same job, and those without rank 0 get
    None.

    Raises `ParplanError` without torch, and `RunFailedError` with the failed rank's last words when
    a worker dies or the job takes longer than `timeout_s`, when one does not answer for `silent_s`,
    or none gets further for `stall_s`; a `CutOffError` where steps of plans were measured before.
    No process outlives the call.
    """
    if num_processes < 1:
        raise ParplanError(f"processes: must be at least 1, got {num_processes}")
    require_torch("executing plans")
    with tempfile.TemporaryDirectory(prefix="parplan-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({**job, "launcher": os.getpid()}))
        with (folder / "torchrun.log").open("w") as log:
            process = subprocess.Popen(
                _command(folder, num_processes, module, nodes),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **ENVIRONMENT,
                    **(loopback_only() if nodes.count == 1 else {}),
                    **os.environ,
                    **OWN_MODULES,
                    FOLDER: name,
                },
                start_new_session=True,
            )
            supervisor = Supervisor(folder, report, silent_s=silent_s, stall_s=stall_s)
            try:
                _watch(process, timeout_s, report, supervisor)
            except RunFailedError as error:
                raise _with_steps(error, folder) from None
            finally:
                stop(process, supervisor)
        if process.returncode != 0 and (folder / OUT_OF_MEMORY).exists():
            raise OutOfMemoryError(read_json(folder / OUT_OF_MEMORY)["plan"])
        if process.returncode != 0:
            raise _with_steps(RunFailedError(last_words(folder, process.returncode)), folder)
        return read_json(folder / "result.json") if nodes.rank == 0 else None


def _command(folder: Path, num_processes: int, module: str, nodes: Nodes) -> list[str]:
    if nodes.count == 1:
        torchrun = [sys.executable, "-P", "-m", LOOPBACK, "--max-restarts=0"]
    else:
        torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--max-restarts=0"]
        torchrun += [f"--nnodes={nodes.count}", f"--node-rank={nodes.rank}"]
        torchrun += ["--rdzv-backend=static", f"--rdzv-endpoint={nodes.endpoint}"]
    torchrun += [f"--nproc-per-node={num_processes}", f"--log-dir={folder}", "--redirects=2"]
    return [*torchrun, "--module", module, str(folder)]


def _watch(
    process: subprocess.Popen[str], timeout_s: float, report: Report, supervisor: Supervisor
) -> None:
    """Pass on the lines of the workers, and look after them, until torchrun ends."""
    assert process.stdout is not None

    def say(line: str) -> None:
        supervisor.further()
        report(line)

    reader = threading.Thread(target=_pass_on, args=(process.stdout, say), daemon=True)
    reader.start()
    clock = AwakeClock(LONGEST_LOOK_S)
    while process.poll() is None:
        left_s = timeout_s - clock.now_s()
        if left_s <= 0:
            raise RunFailedError(
                f"the workers did not finish within {timeout_s:g} s and were stopped"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(LOOK_EVERY_S, left_s))
        supervisor()
    reader.join(timeout=1.0)


def _with_steps(error: RunFailedError, folder: Path) -> RunFailedError:
    """The same, with the steps that were measured until then, where there are any."""
    steps = steps_of(folder)
    return CutOffError(str(error), steps) if any(steps.values()) else error


def _pass_on(lines: Any, report: Report) -> None:
    for line in lines:
        report(line.rstrip("\n"))


def stop(process: subprocess.Popen[str], supervisor: Supervisor | None = None) -> None:
    """End torchrun, which ends its workers; these also end by themselves when it is gone.

    One that is stopped can only be killed, by the `supervisor`; torchrun would wait for it.
    """
    if process.poll() is None:
        process.terminate()
        if supervisor is not None:
            supervisor.end_workers()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if supervisor is not None:
        supervisor.end_workers()


def last_words(folder: Path, code: int) -> str:
    """Return the rank that failed first, how it failed, and its last line of output."""
    log = (folder / "torchrun.log").read_text(errors="replace")
    cause = log.rpartition("Root Cause")[2]
    rank = re.search(r"rank\s*:\s*(\d+)", cause)
    exit_code = re.search(r"exitcode\s*:\s*(-?\d+)", cause)
    if rank is None or exit_code is None:
        return f"torchrun ended with exit code {code}: {_last_line(log)}"
    number = int(exit_code[1])
    how = f"exit code {number}"
    if number < 0:
        how = f"signal {-number} ({signal.Signals(-number).name})"
    local = re.search(r"local_rank\s*:\s*(\d+)", cause) or rank
    logs = sorted(folder.glob(f"*/attempt_0/{local[1]}/stderr.log"))
    words = _last_line(logs[0].read_text(errors="replace")) if logs else ""
    return f"worker {rank[1]} died with {how}" + (f": {words}" if words else "")


def _last_line(text: str) -> str:
    """Without what torch and `parplan.backend.script.one_line` put before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Warnings of torch's C++ come before the end, and say nothing of it.
    lines = [line for line in lines if not re.match(r"(\[rank\d+\]:)?\[W\d", line)]
    if not lines:
        return ""
    return re.sub(r"^(\[rank\d+\]: )?(parplan: \w+ \(process \d+\): )?", "", lines[-1])
