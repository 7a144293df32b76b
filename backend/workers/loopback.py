"""torchrun on one machine, where all listens on the loopback interface alone.

`python -P -m parplan.backend.workers.loopback` takes the arguments of torchrun. Its own
`--standalone` has a store that listens on every interface, and torch unpickles what comes from
there. The kernel gives the port, so that it is never one that is taken.
"""

import socket
import sys
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.run import main as torchrun

NAME = "parplan-loopback"
HOST = "127.0.0.1"
TIMEOUT_S = 300.0


def loopback_store() -> Any:
    """A store of this process on a free port of the loopback interface."""
    listening = socket.create_server((HOST, 0), backlog=1024)
    port = listening.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        HOST,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=TIMEOUT_S),
        master_listen_fd=listening.detach(),
    )


class Loopback(RendezvousHandler):
    """The meeting of one launcher with itself; its workers use the store as their own."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._store = loopback_store()
        self._is_closed = False

    def get_backend(self) -> str:
        """The name that torchrun knows it by."""
        return NAME

    @property
    def use_agent_store(self) -> bool:
        """The workers connect to this store, and make none."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Rank 0 of one."""
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(HOST, self._store.port))

    def is_closed(self) -> bool:
        """Whether the job is over."""
        return self._is_closed

    def set_closed(self) -> None:
        """The job is over."""
        self._is_closed = True

    def num_nodes_waiting(self) -> int:
        """No one else comes."""
        return 0

    def get_run_id(self) -> str:
        """Of the job."""
        return self._run_id

    def shutdown(self) -> bool:
        """Nothing is left to be told."""
        return True


def _handler(parameters: RendezvousParameters) -> RendezvousHandler:
    return Loopback(parameters.run_id)


def main() -> None:
    """torchrun, with this machine's rendezvous."""
    rendezvous_handler_registry.register(NAME, _handler)
    torchrun([f"--rdzv-backend={NAME}", "--nnodes=1", *sys.argv[1:]])


if __name__ == "__main__":
    main()
