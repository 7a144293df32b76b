"""Which device a process computes on, on machines that are not here."""

import socket

import pytest
import torch
import torch.distributed as dist

from parplan.backend.workers import processes
from parplan.backend.workers.processes import check_own_gpus, gpu_of, join_processes, reaches_gpus
from parplan.errors import ParplanError


@pytest.mark.parametrize(
    ("local_rank", "local_world", "num_gpus", "gpu"),
    [(0, 1, 1, 0), (1, 2, 2, 1), (3, 4, 8, 3), (3, 4, 1, 0), (0, 4, 2, None), (0, 2, 0, None)],
)
def test_the_gpu_of_a_process(local_rank, local_world, num_gpus, gpu) -> None:
    assert gpu_of(local_rank, local_world, num_gpus) == gpu


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ("nccl", True),
        ("cuda:nccl", True),
        ("cpu:gloo,cuda:nccl", True),
        ("cpu:gloo,cuda:gloo", False),
        ("gloo", False),
        ("cpu:gloo", False),
    ],
)
def test_groups_between_gpus(backends, expected) -> None:
    assert reaches_gpus(backends) is expected


class Properties:
    uuid = "GPU-1"


def with_gpus(monkeypatch, count, backends, *, local_world=2):
    """A machine with GPUs and a process group with such backends; what is logged."""
    chosen: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    monkeypatch.setattr(dist, "is_initialized", lambda: backends is not None)
    monkeypatch.setattr(dist, "get_world_size", lambda: local_world)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr(processes, "_WATCH", [None])
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_world))
    return chosen


@pytest.mark.parametrize("backends", ["nccl", "cpu:gloo,cuda:nccl"])
def test_a_group_of_the_script_is_used_on_its_gpus(monkeypatch, backends) -> None:
    chosen = with_gpus(monkeypatch, 2, backends)
    assert join_processes() == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]


def test_a_group_of_the_script_without_gpus_stays_on_the_cpu(monkeypatch) -> None:
    with_gpus(monkeypatch, 2, "gloo")
    assert join_processes() == torch.device("cpu")


def gathers(monkeypatch, *others):
    def gather(everyone, own) -> None:
        everyone[:] = [*others, own]

    monkeypatch.setattr(dist, "all_gather_object", gather)


def test_a_process_that_sees_one_gpu_has_that(monkeypatch) -> None:
    with_gpus(monkeypatch, 1, "cpu:gloo,cuda:nccl")
    gathers(monkeypatch, (socket.gethostname(), "GPU-0"))
    assert join_processes() == torch.device("cuda", 0)


def test_processes_that_share_a_gpu_are_refused(monkeypatch) -> None:
    with_gpus(monkeypatch, 1, "cpu:gloo,cuda:nccl")
    gathers(monkeypatch, (socket.gethostname(), "GPU-1"))
    with pytest.raises(ParplanError, match="processes 0 and 1 share a GPU of"):
        check_own_gpus(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("num_gpus", "made"),
    [(2, ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))), (0, ("gloo", None))],
)
def test_the_group_that_is_made(monkeypatch, num_gpus, made) -> None:
    with_gpus(monkeypatch, num_gpus, None)
    found = []

    def make(backend, *, timeout, device_id) -> None:
        found.append((backend, device_id))

    monkeypatch.setattr(dist, "init_process_group", make)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(processes.atexit, "register", lambda function: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    join_processes()
    assert found == [made]


def test_a_kind_of_device_that_is_asked_for(monkeypatch, caplog) -> None:
    with_gpus(monkeypatch, 1, None, local_world=1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_processes("cuda") == join_processes() == torch.device("cuda", 0)
    assert join_processes("cpu") == torch.device("cpu")
    with_gpus(monkeypatch, 0, None, local_world=1)
    with pytest.raises(ParplanError, match="1 processes need a GPU each, this machine has 0"):
        join_processes("cuda")
    assert "the CPU is used" not in caplog.text


def test_too_few_gpus_are_said(monkeypatch, caplog) -> None:
    with_gpus(monkeypatch, 2, None, local_world=4)
    monkeypatch.setattr(processes, "_meet", lambda backend, gpu: None)
    monkeypatch.setattr(processes.atexit, "register", lambda function: None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert join_processes() == torch.device("cpu")
    assert "4 processes, but 2 GPUs here: the CPU is used" in caplog.text
