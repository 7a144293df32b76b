"""Shared device choice, data and decisions of the processes started by torchrun."""

import atexit
import contextlib
import datetime
import logging
import os
import socket
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from parplan.backend.workers.neighbour_watch import NeighbourWatch, timeout_s
from parplan.errors import ParplanError

T = TypeVar("T")

DeviceKind = Literal["auto", "cpu", "cuda"]

LOG = logging.getLogger("parplan")

ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "RANK")

_WATCH: list[NeighbourWatch] = []
"""Of this process, once it has joined others."""


def join_processes(kind: DeviceKind = "auto") -> torch.device:
    """Set up the process group of a torchrun start, unless there is one; the device to compute on.

    One GPU per process with nccl where the machine has enough of them, or every process sees one of
    its own; otherwise the CPU with gloo, said where there are GPUs. kind: one of these alone. A
    plain `python` start is a run of one process. From then on a process ends when another one has
    died or stopped (`parplan.backend.workers.neighbour_watch`). Raises `ParplanError` when the
    processes do not find each other, share a GPU, or have none where one is asked for.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = None if kind == "cpu" else gpu_of(local_rank, local_world, num_gpus)
    if kind == "cuda" and gpu is None:
        raise ParplanError(
            f"device cuda: {local_world} processes need a GPU each, this machine has {num_gpus}"
        )
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            LOG.info("One process: no parallelism. Start more with torchrun --nproc-per-node N.")
        else:
            if gpu is None and num_gpus and local_rank == 0 and kind == "auto":
                LOG.warning(
                    f"{local_world} processes, but {num_gpus} GPUs here: the CPU is used; start as "
                    "many processes as there are GPUs"
                )
            # Before its first use, so that no process makes a context on another one's GPU.
            if gpu is not None:
                torch.cuda.set_device(gpu)
            _meet("gloo" if gpu is None else "cpu:gloo,cuda:nccl", gpu)
            atexit.register(leave)
    if dist.is_initialized() and dist.get_world_size() > 1 and not _WATCH:
        with contextlib.suppress(RuntimeError, KeyError):  # no store of torchrun: nobody watches
            _WATCH.append(NeighbourWatch(dist.get_rank(), dist.get_world_size(), timeout_s()))
            atexit.register(_WATCH[0].stop)
    if gpu is None or not _reaches_gpus():
        return torch.device("cpu")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    if num_gpus < local_world and dist.is_initialized():
        check_own_gpus(device)
    return device


def gpu_of(local_rank: int, local_world: int, num_gpus: int) -> int | None:
    """The GPU of a process among those that it sees; None where there are too few.

    A process that sees one alone was given it, as schedulers do with one GPU per task.
    """
    if num_gpus >= local_world:
        return local_rank
    return 0 if num_gpus == 1 else None


def _reaches_gpus() -> bool:
    """Whether the process group, if there is one, communicates between GPUs.

    A group that was made without a backend, or with one for each kind of device, has several.
    """
    return not dist.is_initialized() or reaches_gpus(dist.get_backend_config())


def reaches_gpus(backends: str) -> bool:
    """Whether such backends, for example `cpu:gloo,cuda:nccl`, have nccl for GPUs."""
    return any(part.rpartition(":")[2] == "nccl" for part in backends.split(","))


def check_own_gpus(device: torch.device) -> None:
    """Raise `ParplanError` on all processes if two of a machine have the same GPU."""
    own = socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)
    everyone: list[tuple[str, str]] = [own] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    for rank, other in enumerate(everyone):
        if (first := everyone.index(other)) < rank:
            raise ParplanError(
                f"processes {first} and {rank} share a GPU of {other[0]}; start as many processes "
                "as there are GPUs, or give each one of its own (CUDA_VISIBLE_DEVICES)"
            )


def _meet(backend: str, gpu: int | None) -> None:
    where = ", ".join(f"{n} {os.environ.get(n, 'not set')}" for n in ADDRESS)
    missing = [name for name in ADDRESS if name not in os.environ]
    if missing:
        raise ParplanError(
            f"no process group: WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {missing[0]} is not "
            "set; start the script with parplan train or torchrun"
        )
    # Longer than a silent process is waited for, so that it is named.
    limit = datetime.timedelta(seconds=1.5 * timeout_s() + 5)
    try:
        # With the GPU said, nccl connects now, not in the first message of two processes alone.
        device = None if gpu is None else torch.device("cuda", gpu)
        dist.init_process_group(backend, timeout=limit, device_id=device)
    except (dist.DistError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        used = "EADDRINUSE" in str(error) or "address already in use" in str(error)
        why = "the port is in use; give torchrun --standalone or another --master-port"
        raise ParplanError(f"no process group ({where}): {why if used else lines[0]}") from error


def leave() -> None:
    """Give up the process group, if there is one."""
    for watch in _WATCH:
        watch.stop()
    if dist.is_initialized():
        dist.destroy_process_group()


def count_step() -> None:
    """Let the others know that this process has begun another step."""
    for watch in _WATCH:
        watch.begin_step()


def lost_contact(error: RuntimeError) -> bool:
    """Whether `error` says that another process did not answer, or is gone."""
    words = ("connection", "timed out", "timeout", "peer", "socket", "rendezvous")
    return any(word in str(error).lower() for word in words)


def num_processes() -> int:
    """The number of processes that run this script."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def agree(decide: Callable[[], T]) -> T:
    """Return the result of `decide` on the first process, or raise its `ParplanError`, on all."""
    answer: list[T | ParplanError | None] = [None]
    if is_first():
        try:
            answer = [decide()]
        except ParplanError as error:
            answer = [error]
    if num_processes() > 1:
        dist.broadcast_object_list(answer)
    if isinstance(answer[0], ParplanError):
        raise answer[0]
    return answer[0]  # type: ignore[return-value]


def broadcast_weights(model: nn.Module, device: torch.device) -> None:
    """Give every process the parameters and buffers of the first one."""
    if num_processes() == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        on_device = tensor.detach().to(device)
        dist.broadcast(on_device, 0)
        tensor.data.copy_(on_device)
