"""Executor arguments: this machine, or a Dask cluster."""

import argparse
import importlib.util
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from parplan.errors import ParplanError, RunFailedError
from parplan.planners.spaces.options import Options

CONNECT_S = 5
"""How long a scheduler may take to answer."""


def add_executor_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--dask`."""
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="run on the workers of this Dask scheduler, for example tcp://host:8786, which need "
        "the same version of parplan",
    )


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """`--workers` and `--dask`, of what has many cases."""
    group = parser.add_argument_group("where it is computed")
    group.add_argument(
        "--workers",
        type=int,
        default=Options().workers,
        help="maximum number of worker processes (default %(default)s, at most one per core)",
    )
    add_executor_argument(group)


def check_workers(args: argparse.Namespace) -> None:
    """Raise `ParplanError` for less than one process."""
    if args.workers < 1:
        raise ParplanError(f"--workers: must be at least 1, got {args.workers}")


@contextmanager
def requested_executor(address: str | None) -> Iterator[Executor | None]:
    """The executor of the scheduler that `--dask` names; None without one: processes here.

    Work of a worker that dies is done again by others. Raises `ParplanError` where Dask or the
    scheduler is not there, or its workers have another parplan.
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
        _check_workers(client, address)
        yield client.get_executor(pure=False)
    except RunFailedError as error:
        raise RunFailedError(f"--dask {address}: {error}") from error
    finally:
        client.close()


def own_version() -> str:
    """The version of parplan in this process."""
    return version("parplan")


def _check_workers(client: Any, address: str) -> None:
    """Raise `ParplanError` unless there are workers, with this version of parplan."""
    found = client.run(own_version, on_error="return")
    if not found:
        raise ParplanError(f"--dask {address}: the scheduler has no workers")
    for worker, answer in found.items():
        if isinstance(answer, OSError):
            continue  # It has just gone.
        if isinstance(answer, BaseException):
            raise ParplanError(f"--dask {address}: worker {worker} has no parplan: {answer}")
        if answer != own_version():
            raise ParplanError(
                f"--dask {address}: worker {worker} has parplan {answer}, this is {own_version()}"
            )
