"""Termination of a process whose neighbour has died or stopped.

Every process counts up under its own name in the store that torchrun keeps, and watches the count
of the next one. A process that is stopped does not count, and neither does one that is gone. What
is stopped cannot end by itself, so on the same machine it is killed. A process whose torchrun is
gone ends as well.
"""

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping

import torch.distributed as dist

from parplan.backend.workers.awake_clock import AwakeClock
from parplan.errors import ParplanError

EVERY_S = 1.0

LONGEST_LOOK_S = 5.0
"""What is longer than this between two looks is a pause, which counts as no more silence."""

TIMEOUT_S = 600.0
"""How long a collective may take, and a process may be silent, unless told otherwise."""

NAME = "PARPLAN_TIMEOUT_S"


def timeout_s(environment: Mapping[str, str] | None = None) -> float:
    """The limit in seconds that `PARPLAN_TIMEOUT_S` sets, or the default.

    Raises `ParplanError` for anything but a number above 0.
    """
    text = (os.environ if environment is None else environment).get(NAME)
    if text is None:
        return TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ParplanError(f"{NAME}: expected seconds above 0, got {text!r}")
    return seconds


class NeighbourWatch:
    """The count of this process and the look at the next one, in a thread of its own."""

    def __init__(self, rank: int, world: int, limit_s: float) -> None:
        self.rank, self.other, self.limit_s = rank, (rank + 1) % world, limit_s
        self.step = 0
        """Calls of the model so far, which is said when somebody fails."""
        self.count = 0
        self.parent = os.getppid()
        self.ended = threading.Event()
        # A connection of its own: those of the process group are waited on.
        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=datetime.timedelta(seconds=max(10.0, limit_s)),
            wait_for_workers=False,
        )
        self._beat()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Say that this process ends as it should."""
        if not self.ended.is_set():
            self.ended.set()
            # A thread that is in the store when Python goes aborts the process.
            self.thread.join(2 * EVERY_S)
            try:
                self.store.set(_key(self.rank), "end")
            except RuntimeError:
                return  # torchrun is gone, and with it everyone who watches

    def begin_step(self) -> None:
        """Tell the others that this process begins another step."""
        self.step += 1
        with contextlib.suppress(RuntimeError):  # of torchrun, which ends this process next
            self._beat()

    def _beat(self) -> None:
        self.count += 1
        where = f"{socket.gethostname()} {os.getpid()}"
        self.store.set(_key(self.rank), f"{self.count} {self.step} {where}")

    def _run(self) -> None:
        clock = AwakeClock(LONGEST_LOOK_S)
        last, since_s = b"", clock.now_s()
        while not self.ended.wait(EVERY_S):
            if os.getppid() != self.parent:
                os._exit(1)
            try:
                self._beat()
                found = self.store.get(_key(self.other)) if self._there() else b""
            except RuntimeError:
                return
            now_s = clock.now_s()
            if found != last or found == b"end":
                last, since_s = found, now_s
            elif now_s - since_s > self.limit_s:
                self._give_up(last)

    def _there(self) -> bool:
        return bool(self.store.check([_key(self.other)]))

    def _give_up(self, last: bytes) -> None:
        _, step, host, pid = last.decode().split() if last else ("", "0", "", "")
        sys.stderr.write(
            f"parplan: failed (process {self.rank}): process {self.other} has not answered for "
            f"{self.limit_s:g} s, it was in step {step}; process {self.rank} is in step "
            f"{self.step} and ends\n"
        )
        sys.stderr.flush()
        if host == socket.gethostname():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)
        os._exit(1)


def _key(rank: int) -> str:
    return f"parplan/beat/{rank}"
