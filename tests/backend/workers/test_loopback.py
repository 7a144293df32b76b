"""Processes of one machine listen on its loopback interface alone."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from parplan.backend.workers.launch import loopback_only  # noqa: E402
from parplan.backend.workers.train import train  # noqa: E402

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc"),
]

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
inodes = set()
for process in (os.getpid(), os.getppid()):
    for file in Path(f"/proc/{process}/fd").iterdir():
        try:
            inodes.add(os.readlink(file).removeprefix("socket:[").rstrip("]"))
        except OSError:
            pass
found = set()
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in Path(table).read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            found.add(words[1].split(":")[0])
dist.barrier()
Path(sys.argv[1], f"{dist.get_rank()}.txt").write_text(" ".join(sorted(found)))
dist.destroy_process_group()
"""
LOOPBACK = "0100007F"


def test_nothing_listens_on_other_interfaces(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    train(script, [str(tmp_path)], 2, write=sys.stderr.write)
    listening = {path.read_text() for path in tmp_path.glob("?.txt")}
    assert listening == {LOOPBACK}, "0A addresses of launcher and workers"


def test_the_interface_is_one_of_this_machine() -> None:
    assert set(loopback_only().values()) <= {"lo", "lo0"}
