"""Where the work of a search is done: on this machine, or on a cluster of machines by Dask."""

import argparse
import importlib.util
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from parplan.hardware.errors import ParplanError, RunFailedError

CONNECT_S = 5
"""How long a scheduler may take to answer."""


def add_executor_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--dask`."""
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="search on the workers of this Dask scheduler, as in tcp://host:8786, which have the "
        "same parplan installed",
    )


@contextmanager
def requested_executor(address: str | None) -> Iterator[Executor | None]:
    """The executor of the scheduler that `--dask` names; None without one: processes here.

    Work of a worker that dies is done again by others. Raises `ParplanError` where Dask or the
    scheduler is not there, and `RunFailedError` where the workers are lost.
    """
    if address is None:
        yield None
        return
    if importlib.util.find_spec("distributed") is None:
        raise ParplanError("--dask: needs Dask: pip install 'parplan[dask]'")
    distributed: Any = importlib.import_module("distributed")
    try:
        client = distributed.Client(address, timeout=CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise ParplanError(f"--dask {address}: no scheduler answers: {error}") from None
    try:
        if not client.scheduler_info()["workers"]:
            raise ParplanError(f"--dask {address}: the scheduler has no workers")
        yield client.get_executor(pure=False)
    except distributed.KilledWorker as error:
        raise RunFailedError(f"--dask {address}: workers died again and again: {error}") from None
    finally:
        client.close()
